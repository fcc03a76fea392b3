/* A QEMU plugin that counts the fused multiply-adds an AArch64 program executes, by their opcodes.
 *
 * At its end the program prints one JSON object to the file given as `out=FILE`: the counts, and as
 * `blocks` each block of instructions that has any of them, as how often it was executed and its
 * code. A block counts when it is entered, atomically, so threads may share it.
 *
 * The prototypes are those of QEMU's plugin interface, version 1 (qemu-plugin.h, which Debian does
 * not package); the opcodes are from the Arm Architecture Reference Manual.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
typedef void (*tb_translated)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*tb_executed)(unsigned int vcpu, void *data);
typedef void (*at_exit)(qemu_plugin_id_t, void *data);

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_translated);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, tb_executed,
                                          enum qemu_plugin_cb_flags, void *data);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, at_exit, void *data);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = 1;
EXPORT int qemu_plugin_install(qemu_plugin_id_t, const qemu_info_t *, int, char **);

enum { KINDS = 5 };
static const struct {
  const char *name;
  uint32_t mask, opcode;
} kinds[KINDS] = {
    /* FMLA, FMLS, FNMLA, FNMLS, FMAD, FMSB, FNMAD, FNMSB (vectors): a compiler picks among them. */
    {"sve_fp16", 0xffe00000, 0x65600000},
    {"sve_fp32", 0xffe00000, 0x65a00000},
    {"sve_fp64", 0xffe00000, 0x65e00000},
    /* FMLA, FMLS (indexed), of any element size. */
    {"sve_indexed", 0xff20f800, 0x64200000},
    /* FMLA, FMLS of Advanced SIMD, on single and double precision vectors. */
    {"neon", 0xbf20fc00, 0x0e20cc00},
};
static struct block {
  uint64_t executed, counts[KINDS];
  size_t length;
  struct block *next;
  uint32_t code[];
} *blocks; /* as QEMU translated them, the last first */
static char *out;

static int kind_of(uint32_t instruction) {
  for (int kind = 0; kind < KINDS; kind++)
    if ((instruction & kinds[kind].mask) == kinds[kind].opcode) return kind;
  /* Advanced SIMD FMLA and FMLS by element, single and double precision: x set, opcode 0x01. */
  return (instruction & 0xbf80b400) == 0x0f801000 ? KINDS - 1 : -1;
}

static void executed(unsigned int vcpu, void *data) {
  (void)vcpu;
  __atomic_fetch_add(&((struct block *)data)->executed, 1, __ATOMIC_RELAXED);
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *translation) {
  (void)id;
  size_t length = qemu_plugin_tb_n_insns(translation);
  struct block *block = calloc(1, sizeof *block + length * sizeof *block->code);
  int found = 0;
  for (size_t i = 0; i < length; i++) {
    memcpy(&block->code[i], qemu_plugin_insn_data(qemu_plugin_tb_get_insn(translation, i)), 4);
    int kind = kind_of(block->code[i]);
    if (kind >= 0) block->counts[kind]++, found = 1;
  }
  if (!found) {
    free(block);
    return;
  }
  block->length = length;
  block->next = __atomic_load_n(&blocks, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(&blocks, &block->next, block, 0, __ATOMIC_RELEASE,
                                      __ATOMIC_RELAXED)) {
  }
  qemu_plugin_register_vcpu_tb_exec_cb(translation, executed, QEMU_PLUGIN_CB_NO_REGS, block);
}

static void print(qemu_plugin_id_t id, void *data) {
  (void)id, (void)data;
  FILE *file = fopen(out, "w");
  if (!file) return;
  fputc('{', file);
  for (int kind = 0; kind < KINDS; kind++) {
    uint64_t total = 0;
    for (struct block *block = blocks; block; block = block->next)
      total += block->executed * block->counts[kind];
    fprintf(file, "\"%s\": %" PRIu64 ", ", kinds[kind].name, total);
  }
  fputs("\"blocks\": [", file);
  for (struct block *block = blocks; block; block = block->next) {
    fprintf(file, "[%" PRIu64 ", [", block->executed);
    for (size_t i = 0; i < block->length; i++)
      fprintf(file, "%s%" PRIu32, i ? ", " : "", block->code[i]);
    fputs(block->next ? "]], " : "]]", file);
  }
  fputs("]}\n", file);
  fclose(file);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc,
                               char **argv) {
  (void)info;
  if (argc != 1 || strncmp(argv[0], "out=", 4)) return -1;
  out = strdup(argv[0] + 4);
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, print, NULL);
  return 0;
}
