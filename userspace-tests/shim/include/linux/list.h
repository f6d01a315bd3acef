/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Circular doubly linked lists with a head, behaving as the kernel's do.
 */
#ifndef _SHIM_LIST_H
#define _SHIM_LIST_H

#include <linux/container_of.h>
#include <linux/list_types.h>
#include <linux/types.h>

#define LIST_HEAD_INIT(name)	{ &(name), &(name) }
#define LIST_HEAD(name)		struct list_head name = LIST_HEAD_INIT(name)

/* What list_del() leaves behind: to follow it is to crash. */
#define SHIM_LIST_GONE		((struct list_head *)0xdead0000000001UL)

static inline void INIT_LIST_HEAD(struct list_head *head)
{
	head->next = head;
	head->prev = head;
}

static inline void shim_list_join(struct list_head *left,
				  struct list_head *right)
{
	left->next = right;
	right->prev = left;
}

static inline bool list_empty(const struct list_head *head)
{
	return READ_ONCE(head->next) == head;
}

static inline bool list_is_singular(const struct list_head *head)
{
	return !list_empty(head) && head->next == head->prev;
}

static inline bool list_is_head(const struct list_head *entry,
				const struct list_head *head)
{
	return entry == head;
}

static inline bool list_is_last(const struct list_head *entry,
				const struct list_head *head)
{
	return entry->next == head;
}

static inline void list_add(struct list_head *entry, struct list_head *head)
{
	shim_list_join(entry, head->next);
	shim_list_join(head, entry);
}

static inline void list_add_tail(struct list_head *entry,
				 struct list_head *head)
{
	shim_list_join(head->prev, entry);
	shim_list_join(entry, head);
}

static inline void list_del(struct list_head *entry)
{
	shim_list_join(entry->prev, entry->next);
	entry->next = SHIM_LIST_GONE;
	entry->prev = SHIM_LIST_GONE;
}

static inline void list_del_init(struct list_head *entry)
{
	shim_list_join(entry->prev, entry->next);
	INIT_LIST_HEAD(entry);
}

static inline void list_move(struct list_head *entry, struct list_head *head)
{
	shim_list_join(entry->prev, entry->next);
	list_add(entry, head);
}

static inline void list_move_tail(struct list_head *entry,
				  struct list_head *head)
{
	shim_list_join(entry->prev, entry->next);
	list_add_tail(entry, head);
}

/* Puts all of @list between @left and what follows it. */
static inline void shim_list_insert_all(const struct list_head *list,
					struct list_head *left)
{
	struct list_head *first = list->next, *last = list->prev;

	shim_list_join(last, left->next);
	shim_list_join(left, first);
}

static inline void list_splice(const struct list_head *list,
			       struct list_head *head)
{
	if (!list_empty(list))
		shim_list_insert_all(list, head);
}

static inline void list_splice_tail(const struct list_head *list,
				    struct list_head *head)
{
	if (!list_empty(list))
		shim_list_insert_all(list, head->prev);
}

static inline void list_splice_init(struct list_head *list,
				    struct list_head *head)
{
	list_splice(list, head);
	INIT_LIST_HEAD(list);
}

static inline void list_splice_tail_init(struct list_head *list,
					 struct list_head *head)
{
	list_splice_tail(list, head);
	INIT_LIST_HEAD(list);
}

static inline size_t list_count_nodes(struct list_head *head)
{
	const struct list_head *pos;
	size_t nr = 0;

	for (pos = head->next; pos != head; pos = pos->next)
		nr++;
	return nr;
}

#define list_entry(ptr, type, member)	container_of(ptr, type, member)
#define list_first_entry(head, type, member) \
	list_entry((head)->next, type, member)
#define list_last_entry(head, type, member) \
	list_entry((head)->prev, type, member)
#define list_next_entry(pos, member) \
	list_entry((pos)->member.next, __typeof__(*(pos)), member)
#define list_prev_entry(pos, member) \
	list_entry((pos)->member.prev, __typeof__(*(pos)), member)
#define list_first_entry_or_null(head, type, member) \
	(list_empty(head) ? NULL : list_first_entry(head, type, member))

#define list_for_each(pos, head) \
	for (pos = (head)->next; pos != (head); pos = pos->next)

#define list_for_each_entry(pos, head, member) \
	for (pos = list_first_entry(head, __typeof__(*pos), member); \
	     &pos->member != (head); \
	     pos = list_next_entry(pos, member))

#define list_for_each_entry_reverse(pos, head, member) \
	for (pos = list_last_entry(head, __typeof__(*pos), member); \
	     &pos->member != (head); \
	     pos = list_prev_entry(pos, member))

/* From @pos on. */
#define list_for_each_entry_from(pos, head, member) \
	for (; !list_is_head(&(pos)->member, head); \
	     (pos) = list_next_entry(pos, member))

/* @pos may be taken out of the list, and freed, by the body. */
#define list_for_each_entry_safe(pos, ahead, head, member) \
	for (pos = list_first_entry(head, __typeof__(*pos), member), \
	     ahead = list_next_entry(pos, member); \
	     &pos->member != (head); \
	     pos = ahead, ahead = list_next_entry(ahead, member))

#endif
