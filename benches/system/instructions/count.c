/*
 * A plugin for QEMU's user mode (TCG plugins, docs/devel/tcg-plugins.rst of QEMU) that counts the instructions which a
 * program executes.
 *
 *     gcc -shared -fPIC -O2 -o count.so count.c
 *     INSTRUCTIONS=file qemu-x86_64 -plugin ./count.so program...
 *
 * QEMU translates a program in blocks of instructions that are executed one after the other. Whenever a block begins,
 * its length is added to the counter of the thread that executes it. The counters are in the file, one 64-bit number
 * per thread, so another process can read them at any time; the sum is what the whole program has executed.
 *
 * The non-obvious rule: each thread has a counter of its own. QEMU can also add without a call of this plugin, and
 * faster, but up to version 8 only to one number for all threads, and two of them that add at once lose one addition.
 */

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* What is used of qemu-plugin.h, which Debian has in no package beside QEMU 7.2. All versions agree on it. */
typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned int, void *),
                                          enum qemu_plugin_cb_flags, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

/* A QEMU takes plugins of some versions of its interface: 7.2 those up to 1, and from 9.0 on none below 2. */
#ifndef PLUGIN_VERSION
#define PLUGIN_VERSION 1
#endif
int qemu_plugin_version = PLUGIN_VERSION;

/* More threads than Envoy starts on a machine of many processors. */
#define THREADS 1024

static uint64_t *executed;

static void execute(unsigned int thread, void *length)
{
    executed[thread % THREADS] += (uintptr_t)length;
}

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(block, execute, QEMU_PLUGIN_CB_NO_REGS,
                                         (void *)(uintptr_t)qemu_plugin_tb_n_insns(block));
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
    const char *path = getenv("INSTRUCTIONS");
    size_t bytes = THREADS * sizeof *executed;
    int file;

    (void)info, (void)argc, (void)argv;
    if (!path) {
        fputs("count: INSTRUCTIONS names no file\n", stderr);
        return 1;
    }
    file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (file < 0 || ftruncate(file, bytes)) {
        perror(path);
        return 1;
    }
    executed = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (executed == MAP_FAILED) {
        perror(path);
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
    return 0;
}
