// SPDX-License-Identifier: GPL-2.0-only
/*
 * The image file in memory.
 *
 * A file has one lock. TSan does not see it (shim.h): what it is told is that a
 * transfer is submitted before it is carried out, and that it is carried out
 * before `done`. Memory of the engine is copied outside of the lock, where TSan
 * and ASan watch.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/completion.h>
#include <linux/kernel.h>
#include <linux/list.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "image.h"
#include "memfile.h"
#include "shim.h"

#define BLOCK_BITS	12
#define BLOCK_BYTES	(1UL << BLOCK_BITS)
#define SECTOR		512UL
#define MAX_THREADS	16
#define DEFAULT_MAX	(1ULL << 62)

struct block {
	struct block *next;
	u64 index;
	unsigned char data[BLOCK_BYTES];
};

/**
 * struct transfer - what is to be carried out
 * @link: in the file's list
 * @all: in the list of all that are not done
 * @fio: what the engine submitted
 * @record: number of its record, -1 if there is none
 * @data: its data, copied
 * @error: how it ended
 * @again: but say that it would have to wait
 */
struct transfer {
	struct list_head link;
	struct list_head all;
	struct qcow2_fio *fio;
	ssize_t record;
	unsigned char *data;
	int error;
	bool again;
};

struct file {
	struct memfile_options options;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct shim_random random;
	u64 *now;
	u64 own_now;

	struct block **blocks;
	size_t nr_buckets;
	size_t nr_blocks;
	size_t peak_blocks;
	u64 max_blocks;
	u64 bytes;

	struct list_head queue;
	struct list_head all;
	unsigned int queued;
	bool stop;
	pthread_t threads[MAX_THREADS];

	struct memfile_record *log;
	size_t log_nr, log_room;
	u64 counts[MEMFILE_NR_OPS];
	u64 tries;
	u64 limit;
	u16 ioprio;

	struct memfile_fault fault;
	u64 fault_seen;
	u64 fault_struck;
	struct memfile_strike strike;

	struct {
		unsigned int ops;
		u64 from, to;
		bool waits;
	} hold;
	pthread_cond_t released;
};

/* Once a flush has failed, every flush of this opening fails, as in file.c. */
struct qcow2_file {
	struct file *filp;
	unsigned int flags;
	bool flush_failed;
};

static void enter(struct file *filp)
{
	shim_hide_begin();
	pthread_mutex_lock(&filp->lock);
}

static void leave(struct file *filp)
{
	pthread_mutex_unlock(&filp->lock);
	shim_hide_end();
}

/*
 * Content, under the lock.
 */

static size_t bucket(const struct file *filp, u64 index)
{
	return (index * 0x9e3779b97f4a7c15ULL >> 20) & (filp->nr_buckets - 1);
}

static struct block *find_block(struct file *filp, u64 index)
{
	struct block *block = filp->blocks[bucket(filp, index)];

	while (block && block->index != index)
		block = block->next;
	return block;
}

static void grow_buckets(struct file *filp)
{
	struct block **old = filp->blocks;
	size_t i, nr_old = filp->nr_buckets;

	filp->nr_buckets = nr_old * 4;
	filp->blocks = must(calloc(filp->nr_buckets, sizeof(*filp->blocks)));
	for (i = 0; i < nr_old; i++)
		while (old[i]) {
			struct block *block = old[i];
			struct block **to = &filp->blocks[bucket(filp,
							block->index)];

			old[i] = block->next;
			block->next = *to;
			*to = block;
		}
	free(old);
}

static struct block *make_block(struct file *filp, u64 index)
{
	struct block *block = find_block(filp, index);
	struct block **to;

	if (block)
		return block;
	if (filp->nr_blocks > filp->nr_buckets)
		grow_buckets(filp);
	block = must(calloc(1, sizeof(*block)));
	block->index = index;
	to = &filp->blocks[bucket(filp, index)];
	block->next = *to;
	*to = block;
	filp->nr_blocks++;
	filp->peak_blocks = max(filp->peak_blocks, filp->nr_blocks);
	return block;
}

static void drop_block(struct file *filp, u64 index)
{
	struct block **link = &filp->blocks[bucket(filp, index)];
	struct block *block;

	while (*link && (*link)->index != index)
		link = &(*link)->next;
	block = *link;
	if (!block)
		return;
	*link = block->next;
	free(block);
	filp->nr_blocks--;
}

/* Bytes from @offset to the end of its block, at most @bytes. */
static size_t in_block(u64 offset, u64 bytes)
{
	return min_t(u64, bytes, BLOCK_BYTES - (offset & (BLOCK_BYTES - 1)));
}

static void get_bytes(struct file *filp, u64 offset, unsigned char *to,
		      u64 bytes)
{
	while (bytes) {
		size_t n = in_block(offset, bytes);
		struct block *block = find_block(filp, offset >> BLOCK_BITS);

		if (block)
			memcpy(to, block->data + (offset & (BLOCK_BYTES - 1)),
			       n);
		else
			memset(to, 0, n);
		offset += n;
		to += n;
		bytes -= n;
	}
}

static void put_bytes(struct file *filp, u64 offset, const unsigned char *from,
		      u64 bytes)
{
	filp->bytes = max(filp->bytes, offset + bytes);
	while (bytes) {
		size_t n = in_block(offset, bytes);
		struct block *block = make_block(filp, offset >> BLOCK_BITS);

		memcpy(block->data + (offset & (BLOCK_BYTES - 1)), from, n);
		offset += n;
		from += n;
		bytes -= n;
	}
}

static bool has_space(struct file *filp, u64 offset, u64 bytes)
{
	u64 i, wanted = 0;

	if (offset + bytes > filp->options.max_bytes)
		return false;
	if (!filp->max_blocks || !bytes)
		return true;
	for (i = offset >> BLOCK_BITS; i <= (offset + bytes - 1) >> BLOCK_BITS;
	     i++)
		wanted += !find_block(filp, i);
	return !wanted || filp->nr_blocks + wanted <= filp->max_blocks;
}

static void clear_range(struct file *filp, u64 offset, u64 bytes, bool punch)
{
	while (bytes) {
		size_t n = in_block(offset, bytes);
		struct block *block = find_block(filp, offset >> BLOCK_BITS);

		if (block && n == BLOCK_BYTES && punch)
			drop_block(filp, offset >> BLOCK_BITS);
		else if (block)
			memset(block->data + (offset & (BLOCK_BYTES - 1)), 0,
			       n);
		offset += n;
		bytes -= n;
	}
}

/* What a block device may do when it is told that nobody needs a part of it. */
static void spoil_range(struct file *filp, u64 offset, u64 bytes)
{
	unsigned char junk[BLOCK_BYTES];

	memset(junk, 0xa5, sizeof(junk));
	while (bytes && offset < filp->bytes) {
		size_t n = min(in_block(offset, bytes), filp->bytes - offset);

		put_bytes(filp, offset, junk, n);
		offset += n;
		bytes -= n;
	}
}

/*
 * The log, under the lock.
 */

/* The clock may be that of another file, which has another lock. */
static u64 tick(struct file *filp)
{
	return __atomic_add_fetch(filp->now, 1, __ATOMIC_SEQ_CST);
}

static ssize_t begin(struct file *filp, enum memfile_op op, u64 offset,
		     u64 bytes)
{
	struct memfile_record *r;

	filp->counts[op]++;
	if (!filp->options.record || op == MEMFILE_READ)
		return -1;
	if (filp->log_nr == filp->log_room) {
		filp->log_room = max(filp->log_room * 2, (size_t)1024);
		filp->log = must(realloc(filp->log,
					 filp->log_room * sizeof(*r)));
	}
	r = &filp->log[filp->log_nr];
	*r = (struct memfile_record) {
		.op = op,
		.begun = tick(filp),
		.offset = offset,
		.bytes = bytes,
	};
	return filp->log_nr++;
}

static void applied(struct file *filp, ssize_t record)
{
	if (record >= 0)
		filp->log[record].applied = tick(filp);
}

static void end(struct file *filp, ssize_t record, int error)
{
	if (record < 0)
		return;
	filp->log[record].ended = tick(filp);
	filp->log[record].error = error;
}

static unsigned char *flatten(struct file *filp, size_t *bytes)
{
	unsigned char *buf = must(malloc(filp->bytes + 1));

	*bytes = filp->bytes;
	get_bytes(filp, 0, buf, filp->bytes);
	return buf;
}

static void forget_strike(struct file *filp)
{
	free(filp->strike.file);
	filp->strike.file = NULL;
}

static void struck(struct file *filp, u64 offset, u64 bytes)
{
	if (filp->fault_struck++ || !filp->fault.keep)
		return;
	filp->strike.offset = offset;
	filp->strike.bytes = bytes;
	filp->strike.file = flatten(filp, &filp->strike.file_bytes);
}

/* The error that an operation shall give, 0 for none. */
static int fault_of(struct file *filp, enum memfile_op op, u64 offset,
		    u64 bytes)
{
	const struct memfile_fault *f = &filp->fault;

	if (!(f->ops & (1U << op)))
		return 0;
	if (f->to && (offset >= f->to || offset + bytes <= f->from))
		return 0;
	filp->fault_seen++;
	if (filp->fault_seen <= f->skip)
		return 0;
	if (f->times && filp->fault_seen > f->skip + f->times)
		return 0;
	struck(filp, offset, bytes);
	return f->error;
}

/*
 * Transfers.
 */

static void put_some_sectors(struct file *filp, u64 offset,
			     const unsigned char *data, u64 bytes)
{
	u64 pos;

	for (pos = 0; pos < bytes; pos += SECTOR)
		if (shim_below(&filp->random, 2) &&
		    has_space(filp, offset + pos, SECTOR))
			put_bytes(filp, offset + pos, data + pos, SECTOR);
}

/* Under the lock: between the file and the transfer's copy of the data. */
static void apply(struct file *filp, struct transfer *t)
{
	const struct qcow2_fio *fio = t->fio;
	u64 bytes = iov_iter_count(&fio->iter);
	int error = fault_of(filp, fio->write ? MEMFILE_WRITE : MEMFILE_READ,
			     fio->offset, bytes);

	if (!error && fio->write && !has_space(filp, fio->offset, bytes))
		error = -ENOSPC;
	t->error = error;
	if (!error && !fio->write)
		get_bytes(filp, fio->offset, t->data, bytes);
	else if (!error)
		put_bytes(filp, fio->offset, t->data, bytes);
	else if (fio->write && filp->fault.torn)
		put_some_sectors(filp, fio->offset, t->data, bytes);
	applied(filp, t->record);
}

/* Sometimes for very long, so that others overtake by far. */
static void nap(struct file *filp, bool may_be_slow)
{
	unsigned int max = filp->options.delay_ns;
	struct timespec ts = {};

	if (!max)
		return;
	enter(filp);
	if (may_be_slow &&
	    shim_below(&filp->random, 100) < filp->options.slow_percent)
		max *= 100;
	if (shim_below(&filp->random, 2))
		ts.tv_nsec = shim_below(&filp->random, max);
	leave(filp);
	if (ts.tv_nsec)
		nanosleep(&ts, NULL);
}

/* The first operation that fits waits until it is released. */
static void obey_hold(struct file *filp, enum memfile_op op, u64 offset,
		      u64 bytes)
{
	enter(filp);
	if ((filp->hold.ops & (1U << op)) && offset < filp->hold.to &&
	    offset + bytes > filp->hold.from) {
		filp->hold.ops = 0;
		filp->hold.waits = true;
		while (filp->hold.waits)
			pthread_cond_wait(&filp->released, &filp->lock);
	}
	leave(filp);
}

static void carry_out(struct file *filp, struct transfer *t)
{
	struct qcow2_fio *fio = t->fio;
	struct iov_iter iter = fio->iter;
	u64 bytes = iov_iter_count(&iter);

	if (fio->write && copy_from_iter(t->data, bytes, &iter) != bytes)
		shim_die("memfile: an iterator is short");
	obey_hold(filp, fio->write ? MEMFILE_WRITE : MEMFILE_READ, fio->offset,
		  bytes);
	nap(filp, true);
	enter(filp);
	apply(filp, t);
	leave(filp);
	if (!fio->write && !t->error)
		copy_to_iter(t->data, bytes, &iter);
	nap(filp, false);
	fio->error = t->again && !t->error ? -EAGAIN : t->error;

	enter(filp);
	list_del(&t->all);
	end(filp, t->record, t->error);
	if (t->record >= 0)
		filp->log[t->record].data = t->data;
	else
		free(t->data);
	leave(filp);
	free(t);
	shim_atomic_begin();
	fio->done(fio);
	shim_atomic_end();
}

/* Any of those that wait. */
static struct transfer *pick(struct file *filp)
{
	unsigned int n = shim_below(&filp->random, filp->queued);
	struct list_head *pos = filp->queue.next;

	while (n--)
		pos = pos->next;
	list_del(pos);
	filp->queued--;
	return list_entry(pos, struct transfer, link);
}

static void *io_thread(void *arg)
{
	struct file *filp = arg;

	enter(filp);
	while (!filp->stop) {
		struct qcow2_fio *fio;
		struct transfer *t;

		if (!filp->queued) {
			pthread_cond_wait(&filp->changed, &filp->lock);
			continue;
		}
		t = pick(filp);
		fio = t->fio;
		leave(filp);
		shim_hb_after(fio);
		carry_out(filp, t);
		enter(filp);
	}
	leave(filp);
	return NULL;
}

static void check_transfer(struct file *filp, struct qcow2_fio *fio)
{
	u64 mask = filp->options.align - 1;
	u64 bytes = iov_iter_count(&fio->iter);

	if ((fio->offset | bytes | iov_iter_alignment(&fio->iter)) & mask)
		shim_die("memfile: a transfer of %llu bytes at %llu is not aligned",
			 bytes, fio->offset);
	if (!bytes)
		shim_die("memfile: an empty transfer at %llu", fio->offset);
	if (fio->write != fio->iter.data_source)
		shim_die("memfile: a transfer in the wrong direction");
	if (fio->write && !(fio->file->flags & QCOW2_FILE_WRITABLE))
		shim_die("memfile: a write to a file that is only read");
}

/*
 * Like a file system that has to read something of its own first, now and then,
 * or whose disk has no request left.
 */
static bool would_wait(struct file *filp, const struct qcow2_fio *fio)
{
	bool ret;

	switch (filp->options.nowait) {
	case MEMFILE_NOWAIT_ALWAYS:
		return false;
	case MEMFILE_NOWAIT_NO_WRITE:
		return fio->write;
	default:
		enter(filp);
		ret = !shim_below(&filp->random, 16);
		leave(filp);
		return ret;
	}
}

static void note_transfer(struct file *filp, const struct qcow2_fio *fio)
{
	enter(filp);
	filp->ioprio = fio->ioprio;
	if (fio->write && fio->nowait)
		filp->tries++;
	leave(filp);
}

void qcow2_file_submit(struct qcow2_fio *fio)
{
	struct file *filp = fio->file->filp;
	u64 bytes = iov_iter_count(&fio->iter);
	struct transfer *t;
	bool now;

	might_sleep();
	shim_point();
	check_transfer(filp, fio);
	if (fio->offset >= QCOW2_MAX_HOST_OFFSET ||
	    bytes > QCOW2_MAX_HOST_OFFSET - fio->offset) {
		fio->error = -EIO;
		fio->done(fio);
		return;
	}
	note_transfer(filp, fio);
	if (fio->nowait && would_wait(filp, fio)) {
		fio->error = -EAGAIN;
		fio->done(fio);
		return;
	}
	t = must(calloc(1, sizeof(*t)));
	t->fio = fio;
	t->data = must(malloc(bytes));
	t->again = fio->nowait && would_wait(filp, fio);
	shim_hb_before(fio);
	enter(filp);
	t->record = begin(filp, fio->write ? MEMFILE_WRITE : MEMFILE_READ,
			  fio->offset, bytes);
	if (t->record >= 0)
		filp->log[t->record].dsync = fio->dsync;
	list_add_tail(&t->all, &filp->all);
	now = !filp->options.threads ||
	      shim_below(&filp->random, 100) < filp->options.inline_percent;
	if (!now) {
		list_add_tail(&t->link, &filp->queue);
		filp->queued++;
		pthread_cond_signal(&filp->changed);
	}
	leave(filp);
	if (now)
		carry_out(filp, t);
}

struct sync_fio {
	struct qcow2_fio fio;
	struct completion done;
};

static void sync_done(struct qcow2_fio *fio)
{
	complete(&container_of(fio, struct sync_fio, fio)->done);
}

int qcow2_file_rw(struct qcow2_file *file, bool write, u64 offset,
		  struct iov_iter *iter)
{
	struct sync_fio sync = {
		.fio = {
			.file = file,
			.offset = offset,
			.iter = *iter,
			.write = write,
			.done = sync_done,
		},
		.done = COMPLETION_INITIALIZER_ONSTACK(sync.done),
	};

	qcow2_file_submit(&sync.fio);
	wait_for_completion(&sync.done);
	return sync.fio.error;
}

/* Like a file system that can zero some ranges, and others not. */
int qcow2_file_make_zero(struct qcow2_file *file, u64 offset, u64 bytes)
{
	struct file *filp = file->filp;
	bool by_range;

	enter(filp);
	by_range = shim_below(&filp->random, 2);
	leave(filp);
	if (by_range && !memfile_zero_range(filp, offset, bytes, false))
		return 0;
	return qcow2_file_write_zeroes(file, offset, bytes);
}

/*
 * The rest of file.h.
 */

bool qcow2_file_can_nowait(const struct qcow2_file *file)
{
	if (file->filp->options.nowait == MEMFILE_NOWAIT_NEVER)
		return false;
	shim_point();
	return true;
}

bool qcow2_file_needs_pages(const struct qcow2_file *file)
{
	return file->filp->options.needs_pages;
}

bool qcow2_file_holes_are_zero(const struct qcow2_file *file)
{
	return !file->filp->options.block_device;
}

bool qcow2_file_is_limited(const struct qcow2_file *file, u64 bytes)
{
	return file->filp->limit && bytes > file->filp->limit;
}

bool qcow2_file_has(const struct qcow2_file *file, u64 bytes)
{
	return bytes <= memfile_bytes(file->filp);
}

int qcow2_file_punch(struct qcow2_file *file, u64 offset, u64 bytes)
{
	return memfile_zero_range(file->filp, offset, bytes, true);
}

int qcow2_file_flush(struct qcow2_file *file)
{
	struct file *filp = file->filp;
	ssize_t record;
	int error;

	might_sleep();
	shim_point();
	enter(filp);
	record = begin(filp, MEMFILE_FLUSH, 0, 0);
	error = fault_of(filp, MEMFILE_FLUSH, 0, 0);
	leave(filp);
	nap(filp, false);
	enter(filp);
	if (error)
		file->flush_failed = true;
	else if (file->flush_failed)
		error = -EIO;
	end(filp, record, error);
	leave(filp);
	return error;
}

struct qcow2_file *qcow2_file_open(struct file *filp, unsigned int flags,
				   struct workqueue_struct *wq,
				   struct qcow2_reason *why)
{
	struct qcow2_file *file = kzalloc(sizeof(*file), GFP_KERNEL);

	(void)wq;
	if (!file)
		return ERR_PTR(qcow2_refuse(why, -ENOMEM, "out of memory"));
	file->filp = filp;
	file->flags = flags;
	return file;
}

void qcow2_file_close(struct qcow2_file *file)
{
	kfree(file);
}

u64 qcow2_file_bytes(const struct qcow2_file *file)
{
	return memfile_bytes(file->filp);
}

u64 qcow2_file_max_bytes(const struct qcow2_file *file)
{
	return file->filp->options.max_bytes;
}

unsigned int qcow2_file_align(const struct qcow2_file *file)
{
	return file->filp->options.align;
}

bool qcow2_file_same(const struct qcow2_file *file, struct file *filp)
{
	return file->filp == filp;
}

int qcow2_file_path(const struct qcow2_file *file, char *buf, size_t bytes)
{
	(void)file;
	return strscpy(buf, "memfile", bytes) < 0 ? -ENAMETOOLONG : 0;
}

/*
 * For tests.
 */

struct file *memfile_of(const struct qcow2_file *file)
{
	return file->filp;
}

struct file *memfile_create(const struct memfile_options *options)
{
	struct file *filp = must(calloc(1, sizeof(*filp)));
	unsigned int i;

	filp->options = *options;
	if (!filp->options.align)
		filp->options.align = SECTOR;
	if (!filp->options.max_bytes)
		filp->options.max_bytes = DEFAULT_MAX;
	filp->options.threads = min(filp->options.threads, MAX_THREADS);
	filp->random.state = options->seed;
	filp->now = options->clock ? options->clock->now : &filp->own_now;
	pthread_mutex_init(&filp->lock, NULL);
	pthread_cond_init(&filp->changed, NULL);
	pthread_cond_init(&filp->released, NULL);
	INIT_LIST_HEAD(&filp->queue);
	INIT_LIST_HEAD(&filp->all);
	filp->nr_buckets = 1024;
	filp->blocks = must(calloc(filp->nr_buckets, sizeof(*filp->blocks)));
	for (i = 0; i < filp->options.threads; i++)
		if (pthread_create(&filp->threads[i], NULL, io_thread, filp))
			shim_die("memfile: no thread");
	return filp;
}

void memfile_destroy(struct file *filp)
{
	size_t b;
	unsigned int i;

	enter(filp);
	if (filp->queued || filp->hold.waits)
		shim_die("memfile: destroyed while transfers wait");
	filp->stop = true;
	pthread_cond_broadcast(&filp->changed);
	leave(filp);
	for (i = 0; i < filp->options.threads; i++)
		pthread_join(filp->threads[i], NULL);
	memfile_log_clear(filp);
	forget_strike(filp);
	for (b = 0; b < filp->nr_buckets; b++)
		while (filp->blocks[b])
			drop_block(filp, filp->blocks[b]->index);
	free(filp->log);
	free(filp->blocks);
	pthread_mutex_destroy(&filp->lock);
	pthread_cond_destroy(&filp->changed);
	pthread_cond_destroy(&filp->released);
	free(filp);
}

void memfile_store(struct file *filp, u64 offset, const void *buf, size_t bytes)
{
	enter(filp);
	put_bytes(filp, offset, buf, bytes);
	leave(filp);
}

void memfile_load_buf(struct file *filp, const void *buf, size_t bytes)
{
	memfile_store(filp, 0, buf, bytes);
}

/* Some blocks of a file, from the start of one. */
static void load_blocks(struct file *filp, u64 offset, const unsigned char *buf,
			size_t bytes)
{
	enter(filp);
	while (bytes) {
		size_t n = in_block(offset, bytes);

		if (memchr_inv(buf, 0, n))
			put_bytes(filp, offset, buf, n);
		offset += n;
		buf += n;
		bytes -= n;
	}
	leave(filp);
}

int memfile_load(struct file *filp, const char *path)
{
	int fd = open(path, O_RDONLY);
	unsigned char buf[65536];
	off_t pos = 0, data;
	struct stat st;
	ssize_t n = 0;

	if (fd < 0 || fstat(fd, &st))
		return -errno;
	while ((data = lseek(fd, pos, SEEK_DATA)) >= 0) {
		off_t hole = lseek(fd, data, SEEK_HOLE);

		pos = data - data % BLOCK_BYTES;
		n = pread(fd, buf, min_t(u64, sizeof(buf), hole - pos), pos);
		if (n <= 0)
			break;
		load_blocks(filp, pos, buf, n);
		pos += n;
	}
	close(fd);
	filp->bytes = max(filp->bytes, (u64)st.st_size);
	return n < 0 ? -EIO : 0;
}

int memfile_dump(struct file *filp, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
	int ret = fd < 0 || ftruncate(fd, filp->bytes) ? -errno : 0;
	size_t b;

	for (b = 0; !ret && b < filp->nr_buckets; b++) {
		struct block *block = filp->blocks[b];

		for (; !ret && block; block = block->next) {
			u64 offset = block->index << BLOCK_BITS;
			size_t n;

			if (offset >= filp->bytes)
				continue;
			n = in_block(offset, filp->bytes - offset);
			if (pwrite(fd, block->data, n, offset) != (ssize_t)n)
				ret = -EIO;
		}
	}
	if (fd >= 0)
		close(fd);
	return ret;
}

unsigned char *memfile_flatten(struct file *filp, size_t *bytes)
{
	unsigned char *buf;

	enter(filp);
	buf = flatten(filp, bytes);
	leave(filp);
	return buf;
}

void memfile_fetch(struct file *filp, u64 offset, void *buf, size_t bytes)
{
	enter(filp);
	get_bytes(filp, offset, buf, bytes);
	leave(filp);
}

bool memfile_is_zero(struct file *filp, u64 offset, u64 bytes)
{
	bool ret = true;

	enter(filp);
	while (bytes && ret) {
		size_t n = in_block(offset, bytes);
		struct block *block = find_block(filp, offset >> BLOCK_BITS);

		if (block)
			ret = !memchr_inv(block->data +
					  (offset & (BLOCK_BYTES - 1)), 0, n);
		offset += n;
		bytes -= n;
	}
	leave(filp);
	return ret;
}

u64 memfile_bytes(struct file *filp)
{
	u64 bytes;

	enter(filp);
	bytes = filp->bytes;
	leave(filp);
	return bytes;
}

u64 memfile_now(struct file *filp)
{
	u64 now;

	enter(filp);
	now = tick(filp);
	leave(filp);
	return now;
}

const struct memfile_record *memfile_log(struct file *filp, size_t *nr)
{
	*nr = filp->log_nr;
	return filp->log;
}

void memfile_log_clear(struct file *filp)
{
	enter(filp);
	while (filp->log_nr)
		free(filp->log[--filp->log_nr].data);
	leave(filp);
}

void memfile_pause(struct file *filp)
{
	enter(filp);
}

void memfile_go_on(struct file *filp)
{
	leave(filp);
}

void memfile_set_nowait(struct file *filp, enum memfile_nowait nowait)
{
	filp->options.nowait = nowait;
}

void memfile_limit(struct file *filp, u64 bytes)
{
	filp->limit = bytes;
}

u16 memfile_ioprio(struct file *filp)
{
	u16 ioprio;

	enter(filp);
	ioprio = filp->ioprio;
	leave(filp);
	return ioprio;
}

u64 memfile_tries(struct file *filp)
{
	u64 tries;

	enter(filp);
	tries = filp->tries;
	leave(filp);
	return tries;
}

u64 memfile_count(struct file *filp, enum memfile_op op)
{
	u64 count;

	enter(filp);
	count = filp->counts[op];
	leave(filp);
	return count;
}

void memfile_fault(struct file *filp, const struct memfile_fault *fault)
{
	static const struct memfile_fault none;

	enter(filp);
	if (fault)
		forget_strike(filp);
	filp->fault = fault ? *fault : none;
	filp->fault_seen = 0;
	filp->fault_struck = 0;
	leave(filp);
}

u64 memfile_faults(struct file *filp)
{
	u64 struck;

	enter(filp);
	struck = filp->fault_struck;
	leave(filp);
	return struck;
}

const struct memfile_strike *memfile_strike(struct file *filp)
{
	bool is_kept;

	enter(filp);
	is_kept = filp->strike.file;
	leave(filp);
	return is_kept ? &filp->strike : NULL;
}

void memfile_hold(struct file *filp, unsigned int ops, u64 from, u64 to)
{
	enter(filp);
	filp->hold.ops = ops;
	filp->hold.from = from;
	filp->hold.to = to;
	leave(filp);
}

void memfile_release(struct file *filp)
{
	enter(filp);
	filp->hold.ops = 0;
	filp->hold.waits = false;
	pthread_cond_broadcast(&filp->released);
	leave(filp);
}

bool memfile_holds(struct file *filp)
{
	bool waits;

	enter(filp);
	waits = filp->hold.waits;
	leave(filp);
	return waits;
}

void memfile_set_space(struct file *filp, u64 bytes)
{
	enter(filp);
	filp->max_blocks = DIV_ROUND_UP(bytes, BLOCK_BYTES);
	leave(filp);
}

u64 memfile_space_used(struct file *filp)
{
	u64 bytes;

	enter(filp);
	bytes = filp->nr_blocks << BLOCK_BITS;
	leave(filp);
	return bytes;
}

u64 memfile_space_peak(struct file *filp)
{
	u64 bytes;

	enter(filp);
	bytes = (u64)filp->peak_blocks << BLOCK_BITS;
	leave(filp);
	return bytes;
}

/* Invariant I4: what is punched nobody reads or writes at that time. */
static void check_punch(struct file *filp, u64 offset, u64 bytes)
{
	struct transfer *t;

	list_for_each_entry(t, &filp->all, all)
		if (t->fio->offset < offset + bytes &&
		    offset < t->fio->offset + iov_iter_count(&t->fio->iter))
			shim_die("memfile: 0x%llx+0x%llx is punched while it is %s at 0x%llx",
				 offset, bytes,
				 t->fio->write ? "written" : "read",
				 t->fio->offset);
}

/* Like a flush a call that waits; recorded and made to fail like a write. */
int memfile_zero_range(struct file *filp, u64 offset, u64 bytes, bool punch)
{
	enum memfile_op op = punch ? MEMFILE_PUNCH : MEMFILE_ZERO;
	ssize_t record;
	int error;

	might_sleep();
	shim_point();
	enter(filp);
	record = begin(filp, op, offset, bytes);
	leave(filp);
	obey_hold(filp, op, offset, bytes);
	nap(filp, false);
	enter(filp);
	if (punch && !filp->options.guest_punches)
		check_punch(filp, offset, bytes);
	error = fault_of(filp, op, offset, bytes);
	if (!error && offset + bytes > filp->bytes && !punch)
		filp->bytes = offset + bytes;
	if (!error && punch && filp->options.block_device)
		spoil_range(filp, offset, bytes);
	else if (!error)
		clear_range(filp, offset, bytes, punch);
	applied(filp, record);
	end(filp, record, error);
	leave(filp);
	return error;
}

int memfile_truncate(struct file *filp, u64 bytes)
{
	ssize_t record;
	int error;

	might_sleep();
	enter(filp);
	record = begin(filp, MEMFILE_TRUNCATE, 0, bytes);
	error = fault_of(filp, MEMFILE_TRUNCATE, 0, 0);
	if (!error && bytes < filp->bytes)
		clear_range(filp, bytes, filp->bytes - bytes, true);
	if (!error)
		filp->bytes = bytes;
	applied(filp, record);
	end(filp, record, error);
	leave(filp);
	return error;
}
