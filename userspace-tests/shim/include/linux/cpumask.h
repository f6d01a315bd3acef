/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_CPUMASK_H
#define _SHIM_CPUMASK_H

/* Fixed, so that a test does not depend on the machine. */
#define num_online_cpus()	2U
#define for_each_possible_cpu(cpu) \
	for ((cpu) = 0; (cpu) < nr_cpu_ids; (cpu)++)
#define nr_cpu_ids		2U

/* Which CPU makes no difference. */
#define cpu_online_mask		NULL
#define cpumask_next(n, mask)	((unsigned int)(n) + 1)
#define cpumask_first(mask)	0U

#endif
