/*
 * Counts what a 64-bit ARM program executes under qemu-aarch64: instructions by class, bytes loaded and stored, the
 * program's own allocations, and, on request, the traffic of a two-level data cache.
 *
 * Copyright (C) 2026 the authors of compress-export
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * This file, unlike the rest of the project, is free software under the GNU General Public License, version 2 or (at
 * your option) any later version, because it is loaded into QEMU, which is under version 2. It comes without any
 * warranty; see https://www.gnu.org/licenses/.
 *
 * Arguments (-plugin count.so,out=FILE,...):
 *   out=FILE                              where the counts go: one line of JSON for each mark
 *   l1=BYTES:WAYS,l2=BYTES:WAYS,line=BYTES  the cache model; left out, no access is looked at one by one
 *   from=N,most=M                         the model looks at accesses from the Nth marked run on, unless the first run
 *                                         took more than M instructions (a look costs eight times the run)
 *   ticks=FILE                            a page that the program maps too: the instructions so far, renewed at each mark 7,
 *                                         so that a program can measure its own parts in instructions (clock.c)
 *
 * A mark is a prctl() whose option is 0x43450000 + phase; no kernel knows it, so it changes nothing. Counts are exact
 * for one thread; the number of threads is written with them.
 */

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- What is used of QEMU's plugin interface, version 1 (Debian ships no header for it). ---- */

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
typedef uint32_t mem_info;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info;

enum { NO_REGISTERS = 0, ADD_U64 = 0, READS_AND_WRITES = 3 };

extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
extern bool qemu_plugin_mem_is_store(mem_info);
extern unsigned qemu_plugin_mem_size_shift(mem_info);
extern void qemu_plugin_register_vcpu_init_cb(plugin_id, void (*)(plugin_id, unsigned));
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
extern void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, void (*)(unsigned, mem_info, uint64_t, void *),
                                             int, int, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t,
                                                                     uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                                                                     uint64_t));
extern void qemu_plugin_register_vcpu_syscall_ret_cb(plugin_id, void (*)(plugin_id, unsigned, int64_t, int64_t));
extern void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
extern void qemu_plugin_reset(plugin_id, void (*)(plugin_id));

EXPORT int qemu_plugin_version = 1;

/* ---- Counters. ---- */

enum counter { VECTOR, LOAD, STORE, BRANCH, OTHER, LOAD_BYTES, STORE_BYTES, COUNTERS };
static const char *const names[COUNTERS] = {"vector", "load", "store", "branch", "other", "load_bytes", "store_bytes"};
static uint64_t counts[COUNTERS];
static uint64_t threads;
static FILE *out;

/* ---- Instructions: Arm Architecture Reference Manual for A-profile, C4.1. ---- */

static uint32_t bits(uint32_t word, int high, int low)
{
    return word >> low & ((2u << (high - low)) - 1);
}

static void add_memory(uint64_t *sums, bool load, uint32_t bytes)
{
    sums[load ? LOAD : STORE]++;
    sums[load ? LOAD_BYTES : STORE_BYTES] += bytes;
}

static void add_vector_structures(uint32_t word, uint64_t *sums)
{
    bool load = bits(word, 22, 22);
    if (bits(word, 24, 24)) { /* one lane of each register, or one value for all lanes */
        uint32_t opcode = bits(word, 15, 13), size = bits(word, 11, 10), scale = opcode >> 1;
        uint32_t registers = ((opcode & 1) << 1 | bits(word, 21, 21)) + 1;
        if (scale == 3)
            scale = size;
        else if (scale == 2 && size & 1)
            scale = 3;
        add_memory(sums, load, registers << scale);
        return;
    }
    static const uint8_t registers[16] = {4, 0, 4, 0, 3, 0, 3, 1, 2, 0, 2};
    add_memory(sums, load, registers[bits(word, 15, 12)] * (bits(word, 30, 30) ? 16 : 8));
}

static void add_one_register(uint32_t word, uint64_t *sums)
{
    uint32_t size = bits(word, 31, 30), opc = bits(word, 23, 22);
    bool vector = bits(word, 26, 26);
    bool plain = bits(word, 24, 24) || !bits(word, 21, 21) || bits(word, 11, 10) == 2;
    if (!vector && plain && size == 3 && opc == 2) /* a prefetch moves nothing that the program sees */
        sums[OTHER]++;
    else if (vector)
        add_memory(sums, opc & 1, opc & 2 ? 16 : 1u << size);
    else /* an atomic reads and writes: it is counted as a load */
        add_memory(sums, !plain || opc, 1u << size);
}

static void add_load_or_store(uint32_t word, uint64_t *sums)
{
    uint32_t kind = bits(word, 29, 28), opc = bits(word, 31, 30);
    bool vector = bits(word, 26, 26);
    if (kind == 3)
        add_one_register(word, sums);
    else if (kind == 2) /* a pair */
        add_memory(sums, bits(word, 22, 22), 2 * (vector ? 4u << opc : opc == 2 ? 8 : 4));
    else if (kind == 1 && bits(word, 24, 24)) /* the ordered ones with an offset: LDAPUR, STLUR */
        add_memory(sums, bits(word, 23, 22) != 0, 1u << opc);
    else if (kind == 1 && !vector && opc == 3) /* a prefetch, relative to the program counter */
        sums[OTHER]++;
    else if (kind == 1)
        add_memory(sums, true, vector ? 4u << opc : opc == 1 ? 8 : 4);
    else if (vector)
        add_vector_structures(word, sums);
    else /* exclusive, ordered, compare and swap */
        add_memory(sums, bits(word, 22, 22), 1u << opc);
}

static void add_instruction(uint32_t word, uint64_t *sums)
{
    if (bits(word, 27, 27) && !bits(word, 25, 25))
        add_load_or_store(word, sums);
    else if (bits(word, 28, 26) == 5)
        /* 1101 0101 begins the system instructions: hints, barriers, registers */
        sums[bits(word, 31, 24) == 0xd5 ? OTHER : BRANCH]++;
    else if (bits(word, 27, 25) == 7)
        /* the Advanced SIMD ones; the others of this group compute with one number */
        sums[!bits(word, 31, 31) && !(bits(word, 30, 30) == 0 && bits(word, 28, 28)) ? VECTOR : OTHER]++;
    else
        sums[OTHER]++;
}

/* ---- The cache model: two levels, least recently used out, write-back, stores allocate; no prefetcher. ---- */

struct cache {
    uint64_t *tags; /* for each set its lines, the latest used first: number of the line + 1, shifted; bit 0: dirty */
    uint64_t sets, ways, misses, written_back;
};

static struct cache l1, l2;
static bool looking;
static uint64_t line_shift, last_line = UINT64_MAX;
static bool last_dirty;

/* Whether the line was there; it is now, and `evicted` is a dirty line that had to go, or UINT64_MAX. */
static bool touch(struct cache *cache, uint64_t line, bool store, uint64_t *evicted)
{
    uint64_t *set = cache->tags + (line % cache->sets) * cache->ways, tag = (line + 1) << 1, at = 0;
    *evicted = UINT64_MAX;
    while (at < cache->ways - 1 && (set[at] | 1) != (tag | 1))
        at++;
    bool hit = (set[at] | 1) == (tag | 1);
    uint64_t kept = hit ? set[at] | store : tag | store;
    if (!hit) {
        cache->misses++;
        if (set[at] & 1) {
            cache->written_back++;
            *evicted = (set[at] >> 1) - 1;
        }
    }
    memmove(set + 1, set, at * sizeof *set);
    set[0] = kept;
    return hit;
}

static void access_line(uint64_t line, bool store)
{
    uint64_t evicted, beyond;
    if (line == last_line && (!store || last_dirty))
        return;
    last_line = line;
    last_dirty = store;
    bool hit = touch(&l1, line, store, &evicted);
    if (evicted != UINT64_MAX)
        touch(&l2, evicted, true, &beyond);
    if (!hit)
        touch(&l2, line, false, &beyond);
}

static void on_access(unsigned vcpu, mem_info info, uint64_t address, void *unused)
{
    (void)vcpu, (void)unused;
    bool store = qemu_plugin_mem_is_store(info);
    uint64_t first = address >> line_shift;
    uint64_t last = (address + (1u << qemu_plugin_mem_size_shift(info)) - 1) >> line_shift;
    access_line(first, store);
    if (last != first)
        access_line(last, store);
}

/* ---- Allocations: the program's heap and its mappings, as it asks for them. ---- */

struct range {
    uint64_t start, end;
    bool anonymous, writable;
};

static struct range *ranges;
static size_t ranges_used, ranges_room;
static uint64_t heap_base, heap_end, anonymous_now, file_now, anonymous_peak, file_peak;

static void account(const struct range *range, int sign)
{
    uint64_t size = (range->end - range->start) * (uint64_t)sign;
    if (!range->anonymous)
        file_now += size;
    else if (range->writable)
        anonymous_now += size;
}

static void note_peak(void)
{
    uint64_t anonymous = anonymous_now + heap_end - heap_base;
    anonymous_peak = anonymous > anonymous_peak ? anonymous : anonymous_peak;
    file_peak = file_now > file_peak ? file_now : file_peak;
}

static void add_range(struct range range)
{
    if (ranges_used == ranges_room) {
        ranges_room = ranges_room ? 2 * ranges_room : 256;
        ranges = realloc(ranges, ranges_room * sizeof *ranges);
        if (!ranges)
            abort();
    }
    ranges[ranges_used++] = range;
    account(&range, 1);
}

/* Takes [start, end) out of every range. With `writable` not negative, the parts are put back with that permission. */
static void cut(uint64_t start, uint64_t end, int writable)
{
    for (size_t at = ranges_used; at-- > 0;) {
        struct range whole = ranges[at];
        if (whole.end <= start || end <= whole.start)
            continue;
        account(&whole, -1);
        ranges[at] = ranges[--ranges_used];
        struct range before = whole, inside = whole, after = whole;
        before.end = inside.start = start > whole.start ? start : whole.start;
        after.start = inside.end = end < whole.end ? end : whole.end;
        if (before.start < before.end)
            add_range(before);
        if (after.start < after.end)
            add_range(after);
        if (writable >= 0) {
            inside.writable = writable;
            add_range(inside);
        }
    }
}

enum { BRK = 214, MUNMAP = 215, MREMAP = 216, MMAP = 222, MPROTECT = 226, PRCTL = 167 };
enum { MARKS = 0x43450000, LAST_MARK = 7, LOOK_AT_CLOCK = 7, MAP_ANONYMOUS_FLAG = 0x20, PROT_WRITE_FLAG = 2 };

static uint64_t page_up(uint64_t bytes)
{
    return (bytes + 4095) & ~(uint64_t)4095;
}

static uint64_t asked[5];

static void on_mremap(uint64_t to)
{
    struct range moved = {to, to + page_up(asked[2]), true, true};
    for (size_t at = 0; at < ranges_used; at++)
        if (ranges[at].start <= asked[0] && asked[0] < ranges[at].end)
            moved.anonymous = ranges[at].anonymous, moved.writable = ranges[at].writable;
    cut(asked[0], asked[0] + page_up(asked[1]), -1);
    cut(moved.start, moved.end, -1);
    add_range(moved);
}

static void on_syscall_return(plugin_id id, unsigned vcpu, int64_t number, int64_t result)
{
    (void)id, (void)vcpu;
    bool failed = result < 0 && result > -4096;
    if (failed)
        return;
    if (number == BRK) {
        heap_end = (uint64_t)result;
        heap_base = heap_base ? heap_base : heap_end;
    } else if (number == MMAP) {
        struct range range = {(uint64_t)result, (uint64_t)result + page_up(asked[1]), asked[3] & MAP_ANONYMOUS_FLAG,
                              asked[2] & PROT_WRITE_FLAG};
        cut(range.start, range.end, -1);
        add_range(range);
    } else if (number == MUNMAP) {
        cut(asked[0], asked[0] + page_up(asked[1]), -1);
    } else if (number == MPROTECT) {
        cut(asked[0], asked[0] + page_up(asked[1]), (asked[2] & PROT_WRITE_FLAG) != 0);
    } else if (number == MREMAP) {
        on_mremap((uint64_t)result);
    } else {
        return;
    }
    note_peak();
}

/* ---- Marks. ---- */

static void write_mark(uint64_t phase)
{
    fprintf(out, "{\"phase\": %" PRIu64 ", \"threads\": %" PRIu64, phase, threads);
    for (int each = 0; each < COUNTERS; each++)
        fprintf(out, ", \"%s\": %" PRIu64, names[each], counts[each]);
    fprintf(out, ", \"anonymous\": %" PRIu64 ", \"anonymous_peak\": %" PRIu64, anonymous_now + heap_end - heap_base,
            anonymous_peak);
    fprintf(out, ", \"file\": %" PRIu64 ", \"file_peak\": %" PRIu64, file_now, file_peak);
    if (looking)
        fprintf(out, ", \"l1_misses\": %" PRIu64 ", \"l2_misses\": %" PRIu64 ", \"l2_written_back\": %" PRIu64,
                l1.misses, l2.misses, l2.written_back);
    fputs("}\n", out);
}

/* ---- Joining QEMU. ---- */

static void on_translation(plugin_id id, struct qemu_plugin_tb *block)
{
    (void)id;
    uint64_t sums[COUNTERS] = {0};
    size_t length = qemu_plugin_tb_n_insns(block);
    for (size_t at = 0; at < length; at++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, at);
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(instruction), sizeof word);
        add_instruction(word, sums);
        if (looking)
            qemu_plugin_register_vcpu_mem_cb(instruction, on_access, NO_REGISTERS, READS_AND_WRITES, NULL);
    }
    /* A block runs from its first instruction to its last: one addition for each class counts them all. */
    for (int each = 0; each < COUNTERS; each++)
        if (sums[each])
            qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &counts[each], sums[each]);
}

enum { LOADED = 2, FIRST = 3, RUN_BEGIN = 4 };
static uint64_t look_from, look_most, runs, first_run;

static uint64_t instructions(void)
{
    return counts[VECTOR] + counts[LOAD] + counts[STORE] + counts[BRANCH] + counts[OTHER];
}

/* Whether the cache model is to look from this mark on. What is translated already has to be translated again. */
static bool time_to_look(uint64_t phase)
{
    if (phase == LOADED)
        first_run = instructions();
    if (phase == FIRST)
        first_run = instructions() - first_run;
    runs += phase == RUN_BEGIN;
    return l1.sets && !looking && phase == RUN_BEGIN && runs == look_from && first_run <= look_most;
}

static volatile uint64_t *ticks;

static bool share_ticks(const char *name)
{
    int file = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || ftruncate(file, 4096))
        return false;
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    ticks = page == MAP_FAILED ? NULL : page;
    return ticks;
}

static void join(plugin_id id);

static void on_syscall(plugin_id id, unsigned vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                       uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)vcpu, (void)a6, (void)a7, (void)a8;
    uint64_t given[5] = {a1, a2, a3, a4, a5};
    memcpy(asked, given, sizeof asked);
    if (number != PRCTL || a1 <= MARKS || a1 > MARKS + LAST_MARK)
        return;
    if (a1 - MARKS == LOOK_AT_CLOCK) {
        if (ticks)
            *ticks = instructions();
        return;
    }
    bool look = time_to_look(a1 - MARKS);
    looking |= look;
    write_mark(a1 - MARKS);
    if (look)
        qemu_plugin_reset(id, join);
}

static void on_thread(plugin_id id, unsigned vcpu)
{
    (void)id, (void)vcpu;
    threads++;
}

static void on_exit_of_guest(plugin_id id, void *unused)
{
    (void)id, (void)unused;
    fclose(out);
}

static void join(plugin_id id)
{
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    qemu_plugin_register_vcpu_syscall_ret_cb(id, on_syscall_return);
    qemu_plugin_register_atexit_cb(id, on_exit_of_guest, NULL);
}

static bool read_cache(const char *text, struct cache *cache, uint64_t line)
{
    uint64_t bytes;
    if (!line || sscanf(text, "%" SCNu64 ":%" SCNu64, &bytes, &cache->ways) != 2 || !cache->ways)
        return false;
    cache->sets = bytes / line / cache->ways;
    cache->tags = calloc(cache->sets * cache->ways, sizeof *cache->tags);
    return cache->sets && cache->tags;
}

EXPORT int qemu_plugin_install(plugin_id id, const struct qemu_info *info, int count, char **words)
{
    (void)info;
    const char *first = NULL, *second = NULL;
    uint64_t line = 0;
    for (int at = 0; at < count; at++) {
        if (!strncmp(words[at], "out=", 4))
            out = fopen(words[at] + 4, "w");
        else if (!strncmp(words[at], "l1=", 3))
            first = words[at] + 3;
        else if (!strncmp(words[at], "l2=", 3))
            second = words[at] + 3;
        else if (!strncmp(words[at], "line=", 5))
            line = strtoull(words[at] + 5, NULL, 10);
        else if (!strncmp(words[at], "from=", 5))
            look_from = strtoull(words[at] + 5, NULL, 10);
        else if (!strncmp(words[at], "most=", 5))
            look_most = strtoull(words[at] + 5, NULL, 10);
        else if (!strncmp(words[at], "ticks=", 6)) {
            if (!share_ticks(words[at] + 6))
                return fprintf(stderr, "count: %s cannot be written\n", words[at] + 6), -1;
        } else
            return fprintf(stderr, "count: there is no argument %s\n", words[at]), -1;
    }
    if (!out)
        return fputs("count: out=FILE is missing or cannot be written\n", stderr), -1;
    if (first && second && !(read_cache(first, &l1, line) && read_cache(second, &l2, line)))
        return fputs("count: l1 and l2 take BYTES:WAYS, line takes BYTES\n", stderr), -1;
    while (line >> line_shift > 1)
        line_shift++;
    qemu_plugin_register_vcpu_init_cb(id, on_thread);
    join(id);
    return 0;
}
