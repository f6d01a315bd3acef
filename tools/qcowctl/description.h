/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_DESCRIPTION_H
#define QCOWCTL_DESCRIPTION_H

#include <json-c/json.h>

/*
 * QEMU can describe a file and how to open it as JSON, in a name that begins
 * with "json:".  A description is an object of options; dots in their names
 * stand for objects in objects.
 */

/**
 * description_parse - understand the text behind "json:"
 * @text: the text
 * @why: out: what is wrong with it, not to be freed
 *
 * Return: an object without dotted names, for json_object_put(), or NULL.
 */
struct json_object *description_parse(const char *text, const char **why);

/*
 * The option @name of an object: as text, or as an object.  NULL if there is
 * none or if it is something else.
 */
const char *description_text(struct json_object *node, const char *name);
struct json_object *description_object(struct json_object *node,
				       const char *name);

/*
 * The first option of an object that is in none of the lists, each ended by
 * NULL; @second can be NULL.  NULL if there is none.
 */
const char *description_unknown(struct json_object *node,
				const char *const first[],
				const char *const second[]);

#endif /* QCOWCTL_DESCRIPTION_H */
