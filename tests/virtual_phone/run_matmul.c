// A runner for tests: docs/runner.md's flags and answer, for .onnx files that are one MatMul of the flattened image.
#define _GNU_SOURCE
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static FILE *answers;

static void fail(int status, const char *form, ...) {
  va_list words;
  va_start(words, form);
  char text[500];
  vsnprintf(text, sizeof text, form, words);
  fprintf(stderr, "%s\n", text);
  fprintf(answers, "{\"error\": \"%s\"}\n", text);
  exit(status);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + 1e-9 * time.tv_nsec;
}

static unsigned char *whole(const char *path, long *size) {
  FILE *file = fopen(path, "rb");
  if (!file) fail(1, "there is no file %s", path);
  fseek(file, 0, SEEK_END);
  *size = ftell(file);
  rewind(file);
  unsigned char *content = malloc(*size + 1);
  if (fread(content, 1, *size, file) != (size_t)*size) fail(1, "cannot read %s", path);
  fclose(file);
  return content;
}

// The weights are the first raw_data field (tag 0x4a) whose length is a multiple of the image's.
static float *weights_of(const unsigned char *file, long size, long features, long *classes) {
  for (long place = 0; place < size; ++place) {
    if (file[place] != 0x4a) continue;
    long length = 0, at = place + 1;
    for (int shift = 0; at < size && shift < 35; shift += 7) {
      length |= (long)(file[at] & 0x7f) << shift;
      if (!(file[at++] & 0x80)) break;
    }
    if (length < features * 4 || length % (features * 4) || at + length > size) continue;
    float *weights = malloc(length);
    memcpy(weights, file + at, length);
    *classes = length / 4 / features;
    return weights;
  }
  fail(1, "the file has no weights for images of this shape");
  return NULL;
}

static void run(const float *image, const float *weights, long features, long classes, float *out) {
  for (long c = 0; c < classes; ++c) out[c] = 0;
  for (long f = 0; f < features; ++f)
    for (long c = 0; c < classes; ++c) out[c] += image[f] * weights[f * classes + c];
}

static long kilobytes(const char *name) {
  FILE *file = fopen("/proc/self/status", "r");
  char line[200];
  long value = 0;
  while (file && fgets(line, sizeof line, file))
    if (!strncmp(line, name, strlen(name))) value = atol(line + strlen(name) + 1);
  if (file) fclose(file);
  return value;
}

static void memory(char *text) {
  sprintf(text, "{\"vm_hwm_kb\": %ld, \"vm_rss_kb\": %ld, \"rss_anon_kb\": %ld, \"rss_file_kb\": %ld, \"pss_kb\": null}",
          kilobytes("VmHWM"), kilobytes("VmRSS"), kilobytes("RssAnon"), kilobytes("RssFile"));
}

static void mhz(const char *key) {
  FILE *file = fopen("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "r");
  double khz;
  if (file && fscanf(file, "%lf", &khz) == 1) fprintf(answers, "\"%s\": %.3f, ", key, khz / 1000);
  else fprintf(answers, "\"%s\": null, ", key);
  if (file) fclose(file);
}

int main(int count, char **words) {
  answers = stdout;
  const char *model = NULL, *outputs = NULL, *cores = "none", *inputs[64];
  int threads = 1, warmup_runs = 10, min_runs = 50, images = 0;
  double warmup_seconds = 0.5, min_seconds = 1, cap = 30;
  long features = 1;
  for (int i = 1; i + 1 < count; i += 2) {
    const char *flag = words[i], *value = words[i + 1];
    if (!strcmp(flag, "--model")) model = value;
    else if (!strcmp(flag, "--input")) inputs[images++ % 64] = value;
    else if (!strcmp(flag, "--shape")) {
      char *rest = (char *)value - 1;
      do features *= strtol(rest + 1, &rest, 10); while (*rest == 'x');
    } else if (!strcmp(flag, "--threads")) threads = atoi(value);
    else if (!strcmp(flag, "--warmup-runs")) warmup_runs = atoi(value);
    else if (!strcmp(flag, "--warmup-seconds")) warmup_seconds = atof(value);
    else if (!strcmp(flag, "--min-runs")) min_runs = atoi(value);
    else if (!strcmp(flag, "--min-seconds")) min_seconds = atof(value);
    else if (!strcmp(flag, "--cap-seconds")) cap = atof(value);
    else if (!strcmp(flag, "--cores")) cores = value;
    else if (!strcmp(flag, "--outputs")) outputs = value;
    else fail(2, "there is no flag %s", flag);
  }
  if (!model || !images) fail(2, "--model and --input are needed");
  char started[200], loaded[200], first[200], ended[200];
  memory(started);
  double begin = now();
  long size, classes, bytes;
  unsigned char *file = whole(model, &size);
  float *weights = weights_of(file, size, features, &classes), *out = malloc(4 * classes * 64);
  double load_ms = 1e3 * (now() - begin), first_ms = 0;
  memory(loaded);
  float *image[64];
  for (int i = 0; i < images; ++i) {
    image[i] = (float *)whole(inputs[i], &bytes);
    if (bytes != features * 4) fail(1, "%s holds %ld bytes, not %ld", inputs[i], bytes, features * 4);
    begin = now();
    run(image[i], weights, features, classes, out + i * classes);
    if (!i) first_ms = 1e3 * (now() - begin), memory(first);
  }
  if (outputs) {
    FILE *kept = fopen(outputs, "wb");
    if (!kept || fwrite(out, 4 * classes, images, kept) != (size_t)images || fclose(kept))
      fail(1, "cannot write the answers to %s", outputs);
  }
  begin = now();
  for (int i = 0; (i < warmup_runs || now() - begin < warmup_seconds) && now() - begin < cap; ++i)
    run(image[i % images], weights, features, classes, out);
  fprintf(answers, "{\"schema\": 1, \"engine\": \"matmul\", \"engine_version\": \"0.1\", \"model_bytes\": %ld, ", size);
  fprintf(answers, "\"threads\": %d, \"cores\": \"%s\", \"load_ms\": %.4f, ", threads, cores, load_ms);
  fprintf(answers, "\"first_ms\": %.4f, \"output_shape\": [1, %ld], ", first_ms, classes);
  mhz("mhz_before");
  fprintf(answers, "\"core_before\": %d, ", sched_getcpu());
  fprintf(answers, "\"samples_ms\": [");
  begin = now();
  for (int i = 0; i == 0 || ((i < min_runs || now() - begin < min_seconds) && now() - begin < cap); ++i) {
    double start = now();
    run(image[i % images], weights, features, classes, out);
    fprintf(answers, "%s%.4f", i ? ", " : "", 1e3 * (now() - start));
  }
  fprintf(answers, "], ");
  mhz("mhz_after");
  memory(ended);
  fprintf(answers, "\"outputs\": \"%s\", \"memory\": {\"start\": %s, \"loaded\": %s, ", outputs, started, loaded);
  fprintf(answers, "\"first\": %s, \"end\": %s}, \"core_after\": %d, ", first, ended, sched_getcpu());
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  fprintf(answers, "\"preemptions\": %ld}\n", used.ru_nivcsw);
  return 0;
}
