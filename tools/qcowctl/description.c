// SPDX-License-Identifier: GPL-2.0-only
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "description.h"

/* QEMU needs four; this bounds the recursion below. */
#define DEPTH_MAX	32

/* Take over @value as the option @name of @to, where there may be one. */
static bool insert_last(struct json_object *to, const char *name,
			struct json_object *value)
{
	struct json_object *there;
	bool done = true;

	if (!json_object_object_get_ex(to, name, &there)) {
		if (!json_object_object_add(to, name, value))
			return true;
		json_object_put(value);
		return false;
	}
	/* {"a.b": 1, "a": {"c": 2}} are two halves of one object. */
	if (!json_object_is_type(there, json_type_object) ||
	    !json_object_is_type(value, json_type_object)) {
		json_object_put(value);
		return false;
	}
	json_object_object_foreach(value, inner, inner_value) {
		done = done && insert_last(there, inner,
					   json_object_get(inner_value));
	}
	json_object_put(value);
	return done;
}

/* The object that is the option @name of @to; made if there is none. */
static struct json_object *descend(struct json_object *to, const char *name)
{
	struct json_object *child;

	if (json_object_object_get_ex(to, name, &child))
		return json_object_is_type(child, json_type_object) ? child
								    : NULL;
	child = json_object_new_object();
	if (child && json_object_object_add(to, name, child)) {
		json_object_put(child);
		return NULL;
	}
	return child;
}

/* As insert_last() where @name, which is taken apart, may have dots. */
static bool insert(struct json_object *to, char *name,
		   struct json_object *value)
{
	char *part;

	while (to && strchr(name, '.')) {
		part = strsep(&name, ".");
		to = descend(to, part);
	}
	if (to)
		return insert_last(to, name, value);
	json_object_put(value);
	return false;
}

static bool expand_into(struct json_object *to, struct json_object *from);

static bool expand_option(struct json_object *to, const char *name,
			  struct json_object *value)
{
	struct json_object *copy = json_object_get(value);
	bool done = true;
	char *parts;

	if (json_object_is_type(value, json_type_object)) {
		json_object_put(copy);
		copy = json_object_new_object();
		done = copy && expand_into(copy, value);
	}
	parts = strdup(name);
	if (done && parts)
		done = insert(to, parts, copy);
	else
		json_object_put(copy);
	done = done && parts;
	free(parts);
	return done;
}

/* As deep as the parser let it be. */
static bool expand_into(struct json_object *to, struct json_object *from)
{
	json_object_object_foreach(from, name, value) {
		if (!expand_option(to, name, value))
			return false;
	}
	return true;
}

static struct json_object *expand(struct json_object *from, const char **why)
{
	struct json_object *to = json_object_new_object();

	if (to && expand_into(to, from))
		return to;
	json_object_put(to);
	*why = "its options contradict each other";
	return NULL;
}

/* json-c takes single quotes, as QEMU does. */
static struct json_object *parse(const char *text)
{
	struct json_tokener *tokener = json_tokener_new_ex(DEPTH_MAX);
	struct json_object *object;
	size_t end;

	if (!tokener)
		return NULL;
	object = json_tokener_parse_ex(tokener, text, strlen(text) + 1);
	end = json_tokener_get_parse_end(tokener);
	json_tokener_free(tokener);
	if (end == strlen(text) && json_object_is_type(object, json_type_object))
		return object;
	json_object_put(object);
	return NULL;
}

struct json_object *description_parse(const char *text, const char **why)
{
	struct json_object *parsed = parse(text), *expanded;

	if (!parsed) {
		*why = "is not a JSON object";
		return NULL;
	}
	expanded = expand(parsed, why);
	json_object_put(parsed);
	return expanded;
}

const char *description_text(struct json_object *node, const char *name)
{
	struct json_object *value;
	const char *text;

	if (!json_object_object_get_ex(node, name, &value) ||
	    !json_object_is_type(value, json_type_string))
		return NULL;
	text = json_object_get_string(value);
	/* A zero byte would make two names of one. */
	if (strlen(text) != (size_t)json_object_get_string_len(value))
		return NULL;
	return text;
}

struct json_object *description_object(struct json_object *node,
				       const char *name)
{
	struct json_object *value;

	if (!json_object_object_get_ex(node, name, &value) ||
	    !json_object_is_type(value, json_type_object))
		return NULL;
	return value;
}

static bool is_listed(const char *name, const char *const list[])
{
	for (; list && *list; list++) {
		if (!strcmp(name, *list))
			return true;
	}
	return false;
}

const char *description_unknown(struct json_object *node,
				const char *const first[],
				const char *const second[])
{
	json_object_object_foreach(node, name, value) {
		(void)value;
		if (!is_listed(name, first) && !is_listed(name, second))
			return name;
	}
	return NULL;
}
