// SPDX-License-Identifier: GPL-2.0-only
/*
 * A fake of node.c that plays the kernel, below $FAKE_ROOT:
 *
 *   dev/qcow-control     must exist, as the node of the loaded module
 *   dev/NAME             a file "block MAJ:MIN" counts as a block device node
 *   sys/dev/block/M:m    symbolic links, as in sysfs
 *   attached/N           one attached device: a line "STATE SIZE CLUSTER
 *                        VERSION OPENERS", then the image's path
 *   shown/N              the snapshot that it shows: lines with ID and name
 *   sys/block/qcowN/qcow2/chain  its files, as in sysfs
 *
 * It is stricter than the kernel: a request that breaks a rule of
 * <linux/qcow2.h> ends the program with SIGABRT.
 *
 *   FAKE_ERRNO_OPEN, _ATTACH, _DETACH, _QUERY  fail that with this errno
 *   FAKE_REASON             words that go with it
 *   FAKE_DETACH_BUSY        so many detaches fail with EBUSY first
 *   FAKE_NODE_AFTER         the node appears when looked for so many times
 *   FAKE_RAISE              signal to raise while attaching
 *   FAKE_ATTACH_LOG         file to append what attach asked for to
 *   FAKE_FILES_LOG          file to append the files that attach got to
 *   FAKE_NO_CACHE_SIZE      the kernel does not know cache_size
 *   FAKE_NO_SNAPSHOT        the kernel does not know snapshot
 *   FAKE_NO_SNAPSHOT_QUERY  it cannot tell which one a device shows
 *   FAKE_NO_CHAIN           it does not list a device's files
 *   FAKE_HOLD               attached devices keep their files, as real ones do
 *   FAKE_ERRNO_LOCK         files cannot be locked: this errno
 *   FAKE_LOCK_INTERRUPTED   so many calls for locks are interrupted first
 *   FAKE_LONG_PATHS         paths fit in no buffer
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/qcow2.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "node.h"

#define FAKE_MAJOR	240
#define FAKE_DEVICES	300

/* Keeps the tests short. */
const unsigned int node_patience_ms = 300;

struct fake_device {
	unsigned int state;
	unsigned long long size;
	unsigned int cluster;
	unsigned int version;
	unsigned int openers;
	char path[3 * PATH_MAX];
	char snapshot_id[QCOW2_SNAPSHOT_NAME_MAX];
	char snapshot_name[QCOW2_SNAPSHOT_NAME_MAX];
};

#define require(condition)						\
	do {								\
		if (!(condition)) {					\
			fprintf(stderr, "fake: broken rule: %s\n",	\
				#condition);				\
			abort();					\
		}							\
	} while (0)

static int knob(const char *name)
{
	const char *value = getenv(name);

	return value && *value ? atoi(value) : 0;
}

static const char *below_root(char *buf, size_t size, const char *path)
{
	const char *root = getenv("FAKE_ROOT");

	require(root && *root);
	require((size_t)snprintf(buf, size, "%s%s", root, path) < size);
	return buf;
}

static const char *system_path(char *buf, size_t size, const char *path)
{
	if (!strncmp(path, "/dev/", 5) || !strncmp(path, "/sys/", 5))
		return below_root(buf, size, path);
	return path;
}

static const char *attached_path(char *buf, size_t size, int index)
{
	char name[32];

	snprintf(name, sizeof(name), "/attached/%d", index);
	return below_root(buf, size, name);
}

static const char *shown_path(char *buf, size_t size, int index)
{
	char name[32];

	snprintf(name, sizeof(name), "/shown/%d", index);
	return below_root(buf, size, name);
}

static const char *chain_dir(char *buf, size_t size, int index)
{
	char name[64];

	snprintf(name, sizeof(name), "/sys/block/qcow%d", index);
	return below_root(buf, size, name);
}

static const char *dev_path(char *buf, size_t size, int index)
{
	char name[32];

	snprintf(name, sizeof(name), "/dev/qcow%d", index);
	return below_root(buf, size, name);
}

static void read_line(FILE *file, char *text, int size)
{
	require(fgets(text, size, file));
	text[strcspn(text, "\n")] = '\0';
}

static void load_snapshot(int index, struct fake_device *device)
{
	char path[PATH_MAX];
	FILE *file = fopen(shown_path(path, sizeof(path), index), "r");

	device->snapshot_id[0] = '\0';
	device->snapshot_name[0] = '\0';
	if (!file)
		return;
	read_line(file, device->snapshot_id, sizeof(device->snapshot_id));
	read_line(file, device->snapshot_name, sizeof(device->snapshot_name));
	fclose(file);
}

/* The one with that name, or that ID: the fake has no other ones. */
static void save_snapshot(int index, const char *name)
{
	char path[PATH_MAX];
	FILE *file = fopen(shown_path(path, sizeof(path), index), "w");

	require(file);
	fprintf(file, "1\n%s\n", name);
	require(!fclose(file));
}

static bool load(int index, struct fake_device *device)
{
	char path[PATH_MAX];
	size_t len;
	FILE *file = fopen(attached_path(path, sizeof(path), index), "r");

	if (!file)
		return false;
	require(fscanf(file, "%u %llu %u %u %u", &device->state, &device->size,
		       &device->cluster, &device->version,
		       &device->openers) == 5);
	require(fgetc(file) == '\n');
	len = fread(device->path, 1, sizeof(device->path) - 1, file);
	device->path[len] = '\0';
	fclose(file);
	load_snapshot(index, device);
	return true;
}

static void save(int index, const struct fake_device *device)
{
	char path[PATH_MAX];
	FILE *file = fopen(attached_path(path, sizeof(path), index), "w");

	require(file);
	fprintf(file, "%u %llu %u %u %u\n%s", device->state, device->size,
		device->cluster, device->version, device->openers,
		device->path);
	require(!fclose(file));
}

static int refuse(int err, uint64_t reason, uint32_t reason_size,
		  const char *words)
{
	if (words && *words && reason)
		snprintf((char *)(uintptr_t)reason, reason_size, "%s", words);
	errno = err;
	return -1;
}

static int open_mode(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	require(flags >= 0);
	return flags & O_ACCMODE;
}

/* The locks of an open file, as numbers of bytes with blanks between. */
static void locks_of(int fd, char *text, size_t size)
{
	long long first, last;
	char path[64], line[256];
	FILE *file;

	text[0] = '\0';
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	file = fopen(path, "r");
	require(file);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "lock: %*d: OFDLCK ADVISORY READ %*d %*s %lld %lld",
			   &first, &last) != 2)
			continue;
		for (; first <= last; first++)
			snprintf(text + strlen(text), size - strlen(text),
				 "%s%lld", text[0] ? " " : "", first);
	}
	fclose(file);
}

/* What the driver counts on, and what QEMU's processes are to see. */
static const char *wanted_locks(const struct qcow2_ctl_attach *arg, bool first)
{
	if (knob("FAKE_ERRNO_LOCK"))
		return "";
	if (first && arg->snapshot)
		return "100 203";
	if (first && !(arg->flags & QCOW2_ATTACH_READ_ONLY))
		return "100 101 103 201 203";
	return "100 201 203";
}

/* @first: it is the image or its data file. */
static void check_file(const struct qcow2_ctl_attach *arg,
		       const struct qcow2_ctl_file *file, bool first)
{
	bool writable = first && !(arg->flags & QCOW2_ATTACH_READ_ONLY);
	char locks[256];
	struct stat st;

	require(file->reserved == 0);
	require(file->fd > STDERR_FILENO);
	require(fcntl(file->fd, F_GETFD) == FD_CLOEXEC);
	require(open_mode(file->fd) == (writable ? O_RDWR : O_RDONLY));
	require(!fstat(file->fd, &st));
	require(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode));
	locks_of(file->fd, locks, sizeof(locks));
	require(!strcmp(locks, wanted_locks(arg, first)));
}

static void check_files(const struct qcow2_ctl_attach *arg)
{
	const struct qcow2_ctl_file *file = (void *)(uintptr_t)arg->files;
	bool is_data, ended = false;

	require(arg->nr_files >= 1 && arg->nr_files <= QCOW2_FILES_MAX);
	require(file->format == QCOW2_FILE_QCOW2);
	require(file->role == QCOW2_ROLE_LAYER);
	for (unsigned int i = 0; i < arg->nr_files; i++, file++) {
		is_data = file->role == QCOW2_ROLE_DATA;
		require(file->format == QCOW2_FILE_RAW ||
			(file->format == QCOW2_FILE_QCOW2 && !is_data));
		require(!is_data || file[-1].format == QCOW2_FILE_QCOW2);
		require(!ended);
		ended = file->format == QCOW2_FILE_RAW && !is_data;
		check_file(arg, file, i == 0 || (i == 1 && is_data));
		for (unsigned int j = 1; j <= i; j++)
			require(file->fd != file[-(int)j].fd);
	}
}

static void check_attach(const struct qcow2_ctl_attach *arg)
{
	const char *snapshot = (void *)(uintptr_t)arg->snapshot;

	require(arg->size == sizeof(*arg));
	require(!(arg->flags & ~(QCOW2_ATTACH_READ_ONLY |
				 QCOW2_ATTACH_DIRECT_IO |
				 QCOW2_ATTACH_NO_PASS_DISCARD |
				 QCOW2_ATTACH_DISCARD_NO_UNREF)));
	require(!arg->cache_size || (arg->cache_size >= 256 << 10 &&
				     arg->cache_size <= 64ULL << 30));
	require(!snapshot || (arg->flags & QCOW2_ATTACH_READ_ONLY));
	require(!snapshot || (*snapshot &&
			      strlen(snapshot) < QCOW2_SNAPSHOT_NAME_MAX));
	require(arg->index == -1);
	require(arg->reserved == 0);
	require(arg->reason && arg->reason_size == QCOW2_REASON_MAX);
	check_files(arg);
}

static FILE *open_log(const char *name)
{
	const char *path = getenv(name);
	FILE *log;

	if (!path)
		return NULL;
	log = fopen(path, "a");
	require(log);
	return log;
}

static void log_attach(const struct qcow2_ctl_attach *arg)
{
	const struct qcow2_ctl_file *file = (void *)(uintptr_t)arg->files;
	const char *snapshot = (void *)(uintptr_t)arg->snapshot;
	FILE *log = open_log("FAKE_ATTACH_LOG");

	if (!log)
		return;
	fprintf(log, "flags=%u mode=%s cache=%llu", arg->flags,
		open_mode(file->fd) == O_RDWR ? "rw" : "ro",
		(unsigned long long)arg->cache_size);
	if (snapshot)
		fprintf(log, " snapshot=%s", snapshot);
	fputc('\n', log);
	fclose(log);
}

static void path_of_fd(int fd, char *path, size_t size)
{
	char link[64];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	require(!node_readlink(link, path, size));
}

static void log_files(const struct qcow2_ctl_attach *arg)
{
	const struct qcow2_ctl_file *file = (void *)(uintptr_t)arg->files;
	FILE *log = open_log("FAKE_FILES_LOG");
	char path[PATH_MAX];

	if (!log)
		return;
	for (unsigned int i = 0; i < arg->nr_files; i++, file++) {
		path_of_fd(file->fd, path, sizeof(path));
		fprintf(log, "%s %s%s\n",
			file->format == QCOW2_FILE_RAW ? "raw" : "qcow2", path,
			file->role == QCOW2_ROLE_DATA ? " data" : "");
	}
	fclose(log);
}

static void print_escaped(FILE *file, const char *text)
{
	for (; *text; text++) {
		if (strchr(" \t\n\\", *text))
			fprintf(file, "\\%03o", *text);
		else
			fputc(*text, file);
	}
}

static void save_chain(int index, const struct qcow2_ctl_attach *arg)
{
	const struct qcow2_ctl_file *file = (void *)(uintptr_t)arg->files;
	char dir[PATH_MAX], path[PATH_MAX + 32];
	FILE *chain;

	chain_dir(dir, sizeof(dir), index);
	snprintf(path, sizeof(path), "%s/qcow2", dir);
	require(!mkdir(dir, 0755) || errno == EEXIST);
	require(!mkdir(path, 0755) || errno == EEXIST);
	snprintf(path, sizeof(path), "%s/qcow2/chain", dir);
	chain = fopen(path, "w");
	require(chain);
	for (unsigned int i = 0; i < arg->nr_files; i++, file++) {
		path_of_fd(file->fd, path, sizeof(path));
		fprintf(chain, "%s %s ",
			file->role == QCOW2_ROLE_DATA ? "data" :
			i ? "backing" : "image",
			file->format == QCOW2_FILE_RAW ? "raw" : "qcow2");
		print_escaped(chain, path);
		fputc('\n', chain);
	}
	require(!fclose(chain));
}

static void forget_chain(int index)
{
	char dir[PATH_MAX], path[PATH_MAX + 32];

	chain_dir(dir, sizeof(dir), index);
	snprintf(path, sizeof(path), "%s/qcow2/chain", dir);
	unlink(path);
}

/* Is there a device that writes to the image? */
static bool is_written(const char *path)
{
	struct fake_device device;

	for (int i = 0; i < FAKE_DEVICES; i++) {
		if (load(i, &device) && !strcmp(device.path, path) &&
		    !(device.state & QCOW2_STATE_READ_ONLY))
			return true;
	}
	return false;
}

static bool is_there(const char *path)
{
	return !access(path, F_OK);
}

static const char *holding_path(char *buf, size_t size, int index)
{
	char name[32];

	snprintf(name, sizeof(name), "/holding-%d", index);
	return below_root(buf, size, name);
}

/* Keep all descriptors in another process until the device is detached. */
static void hold(int index)
{
	char attached[PATH_MAX], holding[PATH_MAX];
	FILE *file;

	attached_path(attached, sizeof(attached), index);
	holding_path(holding, sizeof(holding), index);
	file = fopen(holding, "w");
	require(file && !fclose(file));
	if (fork())
		return;
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		close(fd);
	while (is_there(attached))
		usleep(5000);
	for (int fd = STDERR_FILENO + 1; fd < 1024; fd++)
		close(fd);
	unlink(holding);
	_exit(0);
}

static void end_hold(int index)
{
	char holding[PATH_MAX];

	holding_path(holding, sizeof(holding), index);
	for (int i = 0; i < 1000 && is_there(holding); i++)
		usleep(5000);
	require(!is_there(holding));
}

static int free_index(void)
{
	struct fake_device device;
	int i = 0;

	while (load(i, &device))
		i++;
	return i;
}

static void make_node(int index)
{
	char path[PATH_MAX];
	FILE *file = fopen(dev_path(path, sizeof(path), index), "w");

	require(file);
	fprintf(file, "block %d:%d\n", FAKE_MAJOR, index);
	fclose(file);
}

static unsigned int state_of(unsigned int flags)
{
	unsigned int state = 0;

	if (flags & QCOW2_ATTACH_READ_ONLY)
		state |= QCOW2_STATE_READ_ONLY;
	if (flags & QCOW2_ATTACH_DIRECT_IO)
		state |= QCOW2_STATE_DIRECT_IO;
	if (flags & QCOW2_ATTACH_NO_PASS_DISCARD)
		state |= QCOW2_STATE_NO_PASS_DISCARD;
	if (flags & QCOW2_ATTACH_DISCARD_NO_UNREF)
		state |= QCOW2_STATE_DISCARD_NO_UNREF;
	return state;
}

static int fake_attach(struct qcow2_ctl_attach *arg)
{
	const struct qcow2_ctl_file *file = (void *)(uintptr_t)arg->files;
	struct fake_device device = {
		.size = 1 << 30,
		.cluster = 65536,
		.version = 3,
	};

	check_attach(arg);
	log_attach(arg);
	log_files(arg);
	/* Such a kernel does not get as far as finding the reason buffer. */
	if ((knob("FAKE_NO_CACHE_SIZE") && arg->cache_size) ||
	    (knob("FAKE_NO_SNAPSHOT") && arg->snapshot))
		return refuse(E2BIG, 0, 0, NULL);
	if (knob("FAKE_RAISE"))
		raise(knob("FAKE_RAISE"));
	if (knob("FAKE_ERRNO_ATTACH"))
		return refuse(knob("FAKE_ERRNO_ATTACH"), arg->reason,
			      arg->reason_size, getenv("FAKE_REASON"));
	path_of_fd(file->fd, device.path, sizeof(device.path));
	if (is_written(device.path) && !arg->snapshot)
		return refuse(EBUSY, arg->reason, arg->reason_size,
			      "image is attached already");
	device.state = state_of(arg->flags);
	arg->index = free_index();
	if (arg->snapshot) {
		device.state |= QCOW2_STATE_SNAPSHOT;
		save_snapshot(arg->index, (void *)(uintptr_t)arg->snapshot);
	}
	if (!knob("FAKE_NO_CHAIN"))
		save_chain(arg->index, arg);
	save(arg->index, &device);
	if (knob("FAKE_HOLD"))
		hold(arg->index);
	if (!knob("FAKE_NODE_AFTER"))
		make_node(arg->index);
	return 0;
}

static bool still_busy(void)
{
	static int left = -1;

	if (left < 0)
		left = knob("FAKE_DETACH_BUSY");
	return left-- > 0;
}

static int fake_detach(struct qcow2_ctl_detach *arg)
{
	struct fake_device device;
	char path[PATH_MAX];

	require(arg->size == sizeof(*arg));
	require(!arg->flags && !arg->reserved && !arg->reserved2);
	require(arg->index >= 0);
	require(arg->reason && arg->reason_size == QCOW2_REASON_MAX);
	if (knob("FAKE_ERRNO_DETACH"))
		return refuse(knob("FAKE_ERRNO_DETACH"), arg->reason,
			      arg->reason_size, getenv("FAKE_REASON"));
	if (!load(arg->index, &device))
		return refuse(ENODEV, arg->reason, arg->reason_size,
			      "no such device");
	if (still_busy())
		return refuse(EBUSY, arg->reason, arg->reason_size,
			      "device is open");
	unlink(attached_path(path, sizeof(path), arg->index));
	unlink(dev_path(path, sizeof(path), arg->index));
	unlink(shown_path(path, sizeof(path), arg->index));
	forget_chain(arg->index);
	end_hold(arg->index);
	return 0;
}

static int give(uint64_t to, uint32_t size, const char *text)
{
	if (!to)
		return 0;
	if (strlen(text) >= size)
		return refuse(ENAMETOOLONG, 0, 0, NULL);
	strcpy((char *)(uintptr_t)to, text);
	return 0;
}

static int fake_query(struct qcow2_ctl_query *arg)
{
	struct fake_device device;
	int index = arg->index;

	require(arg->size == sizeof(*arg));
	require(!arg->flags && !arg->state && !arg->virtual_size);
	require(!arg->cluster_size && !arg->version && !arg->openers);
	require(!arg->path == !arg->path_size && !arg->reserved);
	require(!arg->snapshot_id == !arg->snapshot_size);
	require(!arg->snapshot_name == !arg->snapshot_size);
	require(index >= 0);
	if (knob("FAKE_ERRNO_QUERY"))
		return refuse(knob("FAKE_ERRNO_QUERY"), 0, 0, NULL);
	if (knob("FAKE_NO_SNAPSHOT_QUERY") && arg->snapshot_id)
		return refuse(E2BIG, 0, 0, NULL);
	while (index < FAKE_DEVICES && !load(index, &device))
		index++;
	if (index == FAKE_DEVICES)
		return refuse(ENODEV, 0, 0, NULL);
	if (arg->path && (knob("FAKE_LONG_PATHS") ||
			  strlen(device.path) >= arg->path_size))
		return refuse(ENAMETOOLONG, 0, 0, NULL);
	if (arg->path)
		strcpy((char *)(uintptr_t)arg->path, device.path);
	if (give(arg->snapshot_id, arg->snapshot_size, device.snapshot_id) ||
	    give(arg->snapshot_name, arg->snapshot_size, device.snapshot_name))
		return -1;
	arg->index = index;
	arg->state = device.state;
	arg->virtual_size = device.size;
	arg->cluster_size = device.cluster;
	arg->version = device.version;
	arg->openers = device.openers;
	return 0;
}

int node_open_control(void)
{
	char path[PATH_MAX];

	if (knob("FAKE_ERRNO_OPEN")) {
		errno = knob("FAKE_ERRNO_OPEN");
		return -1;
	}
	return open(below_root(path, sizeof(path), "/dev/" QCOW2_CONTROL_NAME),
		    O_RDWR | O_CLOEXEC);
}

int node_ioctl(int fd, unsigned long request, void *arg)
{
	require(fcntl(fd, F_GETFD) == FD_CLOEXEC);
	switch (request) {
	case QCOW2_CTL_ATTACH:
		return fake_attach(arg);
	case QCOW2_CTL_DETACH:
		return fake_detach(arg);
	case QCOW2_CTL_QUERY:
		return fake_query(arg);
	default:
		require(!"known request");
		return -1;
	}
}

static void appear_in_time(const char *path)
{
	static int looks;
	int index;

	if (knob("FAKE_NODE_AFTER") && ++looks == knob("FAKE_NODE_AFTER") &&
	    sscanf(path, "/dev/qcow%d", &index) == 1)
		make_node(index);
}

/* Turn a file that says "block MAJ:MIN" into such a node. */
static void disguise(const char *path, struct stat *st)
{
	unsigned int maj, min;
	FILE *file;

	if (!S_ISREG(st->st_mode))
		return;
	file = fopen(path, "r");
	require(file);
	if (fscanf(file, "block %u:%u", &maj, &min) == 2) {
		st->st_mode = S_IFBLK | 0660;
		st->st_rdev = makedev(maj, min);
	}
	fclose(file);
}

int node_stat(const char *path, struct stat *st)
{
	char buf[PATH_MAX];
	const char *real = system_path(buf, sizeof(buf), path);

	appear_in_time(path);
	if (stat(real, st))
		return -1;
	disguise(real, st);
	return 0;
}

int node_open_sysfs(const char *path)
{
	char buf[PATH_MAX];

	require(!strncmp(path, "/sys/", 5));
	return open(system_path(buf, sizeof(buf), path),
		    O_RDONLY | O_CLOEXEC);
}

int node_lock(int fd, int command, struct flock *lock)
{
	static int interruptions = -1;

	require(command == F_OFD_SETLK || command == F_OFD_GETLK);
	require(lock->l_whence == SEEK_SET && lock->l_len == 1 && !lock->l_pid);
	if (interruptions < 0)
		interruptions = knob("FAKE_LOCK_INTERRUPTED");
	if (interruptions-- > 0)
		return refuse(EINTR, 0, 0, NULL);
	interruptions = 0;
	if (knob("FAKE_ERRNO_LOCK"))
		return refuse(knob("FAKE_ERRNO_LOCK"), 0, 0, NULL);
	return fcntl(fd, command, lock);
}

int node_readlink(const char *path, char *target, size_t size)
{
	char buf[PATH_MAX];
	ssize_t len = readlink(system_path(buf, sizeof(buf), path), target,
			       size - 1);

	if (len < 0)
		return -1;
	target[len] = '\0';
	return 0;
}
