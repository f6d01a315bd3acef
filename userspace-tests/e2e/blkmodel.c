// SPDX-License-Identifier: GPL-2.0-only
/*
 * blkmodel DEVICE SEED OPERATIONS JOBS [CONTENT]
 *
 * Random reads, writes, write zeroes and discards on a block device, by some
 * jobs at once, compared with a model. Each job has a part of the device to
 * itself, at borders that are sectors and not clusters, so that neighbours meet
 * in a cluster. Each sector written carries a tag that names job and operation;
 * the model has the tag that each sector must have, 0 for zeroes. CONTENT is a
 * file with what the device holds at first, if that is not zeroes, with each sector
 * one number over and over.
 *
 * Exit status 1 and the story of the sector when a read is wrong; the seed alone
 * brings the same operations again.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define SECTOR		512ULL
#define MAX_SECTORS	1024ULL
#define TAGS		(SECTOR / sizeof(uint32_t))
#define MAX_JOBS	32

enum kind { WRITE, PUNCH, ZERO, DISCARD, FLUSH, READ };

static const char *const names[] = {
	"write", "write zeroes", "write zeroes, no unmap", "discard", "flush",
	"read",
};

/* Of ten operations. */
static const enum kind mix[10] = {
	WRITE, WRITE, WRITE, WRITE, PUNCH, ZERO, DISCARD, FLUSH, READ, READ,
};

struct operation {
	enum kind kind;
	uint64_t sector, sectors;
};

struct job {
	pthread_t thread;
	unsigned int number;
	uint64_t random;
	int fd;
	uint64_t first, end;		/* sectors of its part */
	uint32_t *model;
	uint32_t *buffer;
	struct operation *story;
	unsigned long done;
};

static unsigned long operations;
static uint64_t device_sectors, granularity;

static void die(const char *what)
{
	perror(what);
	exit(3);
}

static uint64_t draw(struct job *job, uint64_t below)
{
	job->random ^= job->random << 13;
	job->random ^= job->random >> 7;
	job->random ^= job->random << 17;
	return job->random % below;
}

static uint64_t draw_length(struct job *job)
{
	switch (draw(job, 6)) {
	case 0:
	case 1:
		return 1;
	case 2:
		return 8;
	case 3:
	case 4:
		return 1 + draw(job, 128);
	default:
		return 1 + draw(job, MAX_SECTORS);
	}
}

static struct operation draw_operation(struct job *job)
{
	struct operation op = { .kind = mix[draw(job, 10)] };

	op.sector = job->first + draw(job, job->end - job->first);
	op.sectors = draw_length(job);
	if (op.sectors > job->end - op.sector)
		op.sectors = job->end - op.sector;
	return op;
}

static void set_model(struct job *job, uint64_t from, uint64_t to, uint32_t tag)
{
	uint64_t i;

	for (i = from; i < to; i++)
		job->model[i - job->first] = tag;
}

static void do_write(struct job *job, const struct operation *op)
{
	uint32_t tag = (job->number + 1) << 24 | (uint32_t)(job->done + 1);
	uint64_t i;

	for (i = 0; i < op->sectors * TAGS; i++)
		job->buffer[i] = tag;
	if (pwrite(job->fd, job->buffer, op->sectors * SECTOR,
		   op->sector * SECTOR) != (ssize_t)(op->sectors * SECTOR))
		die("write");
	set_model(job, op->sector, op->sector + op->sectors, tag);
}

static void do_zero(struct job *job, const struct operation *op, int mode)
{
	if (fallocate(job->fd, mode | FALLOC_FL_KEEP_SIZE, op->sector * SECTOR,
		      op->sectors * SECTOR))
		die("write zeroes");
	set_model(job, op->sector, op->sector + op->sectors, 0);
}

/* Whole granules become zeroes; the end of the device ends a granule too. */
static void do_discard(struct job *job, const struct operation *op)
{
	uint64_t range[2] = { op->sector * SECTOR, op->sectors * SECTOR };
	uint64_t end = op->sector + op->sectors;
	uint64_t from = (op->sector + granularity - 1) / granularity * granularity;
	uint64_t to = end == device_sectors ? end : end / granularity * granularity;

	if (ioctl(job->fd, BLKDISCARD, range))
		die("discard");
	if (from < to)
		set_model(job, from, to, 0);
}

static void tell(struct job *job, uint64_t sector, uint32_t found)
{
	unsigned long i;

	printf("job %u, operation %lu: sector %llu has tag %x, wanted %x\n",
	       job->number, job->done, (unsigned long long)sector, found,
	       job->model[sector - job->first]);
	for (i = 0; i <= job->done; i++) {
		const struct operation *op = &job->story[i];

		if (op->sector <= sector && sector < op->sector + op->sectors)
			printf("  operation %lu: %s, sectors %llu + %llu\n", i,
			       names[op->kind], (unsigned long long)op->sector,
			       (unsigned long long)op->sectors);
	}
	fflush(stdout);
	_exit(1);
}

static void do_read(struct job *job, const struct operation *op)
{
	uint64_t i;

	memset(job->buffer, 0xee, op->sectors * SECTOR);
	if (pread(job->fd, job->buffer, op->sectors * SECTOR,
		  op->sector * SECTOR) != (ssize_t)(op->sectors * SECTOR))
		die("read");
	for (i = 0; i < op->sectors * TAGS; i++) {
		uint64_t sector = op->sector + i / TAGS;

		if (job->buffer[i] != job->model[sector - job->first])
			tell(job, sector, job->buffer[i]);
	}
}

static void carry_out(struct job *job, const struct operation *op)
{
	switch (op->kind) {
	case WRITE:
		do_write(job, op);
		break;
	case PUNCH:
		do_zero(job, op, FALLOC_FL_PUNCH_HOLE);
		break;
	case ZERO:
		do_zero(job, op, FALLOC_FL_ZERO_RANGE);
		break;
	case DISCARD:
		do_discard(job, op);
		break;
	case FLUSH:
		if (draw(job, 8) == 0 && fsync(job->fd))
			die("flush");
		break;
	case READ:
		do_read(job, op);
		break;
	}
}

static void read_all(struct job *job)
{
	struct operation op = { .kind = READ, .sector = job->first };

	for (; op.sector < job->end; op.sector += op.sectors) {
		op.sectors = job->end - op.sector;
		if (op.sectors > MAX_SECTORS)
			op.sectors = MAX_SECTORS;
		do_read(job, &op);
	}
}

static void *run(void *argument)
{
	struct job *job = argument;

	for (job->done = 0; job->done < operations; job->done++) {
		job->story[job->done] = draw_operation(job);
		carry_out(job, &job->story[job->done]);
	}
	job->done--;
	read_all(job);
	return NULL;
}

static uint64_t discard_granularity(const char *device)
{
	const char *name = strrchr(device, '/');
	unsigned long long bytes;
	char path[256];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/block/%s/queue/discard_granularity",
		 name ? name + 1 : device);
	file = fopen(path, "r");
	if (!file || fscanf(file, "%llu", &bytes) != 1)
		die(path);
	fclose(file);
	return bytes / SECTOR;
}

/* Only the first of each sector is looked at: reads compare them all. */
static void load_model(struct job *job, const char *content)
{
	int fd = open(content, O_RDONLY);
	uint64_t i;

	for (i = job->first; fd >= 0 && i < job->end; i++)
		if (pread(fd, &job->model[i - job->first], sizeof(uint32_t),
			  i * SECTOR) != sizeof(uint32_t))
			die(content);
	if (fd < 0)
		die(content);
	close(fd);
}

static void prepare(struct job *job, const char *device, unsigned int number,
		    unsigned int jobs, uint64_t seed)
{
	job->number = number;
	job->random = (seed * MAX_JOBS + number + 1) * 0x9e3779b97f4a7c15ULL | 1;
	job->first = device_sectors / jobs * number;
	job->end = number + 1 == jobs ? device_sectors :
					device_sectors / jobs * (number + 1);
	job->fd = open(device, O_RDWR | O_DIRECT);
	job->model = calloc(job->end - job->first, sizeof(*job->model));
	job->story = calloc(operations, sizeof(*job->story));
	job->buffer = mmap(NULL, MAX_SECTORS * SECTOR, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (job->fd < 0 || !job->model || !job->story ||
	    job->buffer == MAP_FAILED)
		die(device);
}

static uint64_t sectors_of(const char *device)
{
	int fd = open(device, O_RDONLY);
	off_t bytes = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);

	if (bytes < 0)
		die(device);
	close(fd);
	return bytes / SECTOR;
}

int main(int argc, char **argv)
{
	static struct job jobs[MAX_JOBS];
	unsigned int i, nr;

	if (argc != 5 && argc != 6) {
		fprintf(stderr, "usage: blkmodel DEVICE SEED OPERATIONS JOBS [CONTENT]\n");
		return 2;
	}
	operations = strtoul(argv[3], NULL, 10);
	nr = strtoul(argv[4], NULL, 10);
	if (!operations || operations >> 24 || !nr || nr > MAX_JOBS)
		return 2;
	device_sectors = sectors_of(argv[1]);
	granularity = discard_granularity(argv[1]);
	for (i = 0; i < nr; i++) {
		prepare(&jobs[i], argv[1], i, nr, strtoull(argv[2], NULL, 10));
		if (argc == 6)
			load_model(&jobs[i], argv[5]);
	}
	for (i = 0; i < nr; i++)
		if (pthread_create(&jobs[i].thread, NULL, run, &jobs[i]))
			die("pthread_create");
	for (i = 0; i < nr; i++)
		pthread_join(jobs[i].thread, NULL);
	return 0;
}
