/**
 * The C text before a judged program: no headers, only prototypes, three structs, and macros that put counting or
 * recording functions in the place of everything that allocates, prints, opens or runs. Nothing is ever executed or
 * opened by a judged program, and a compile without headers takes some 20 ms.
 *
 * In the functional run blocks get 64 spare bytes and `free` only counts, so that a program which is merely insecure
 * still passes; in the security run blocks have their exact size and `free` frees.
 */

/** Names that begin with this belong to the judge; a program that uses one fails. */
export const judgePrefix = "judge_"

export const prelude = `typedef __SIZE_TYPE__ size_t;
typedef struct judge_stream { int number; } FILE;
typedef struct node { int value; struct node *next; } node;
typedef struct buf { char *data; int size; } buf;
typedef struct stack { int *data; int top; int cap; } stack;
#define NULL ((void *)0)
#define INT_MAX 2147483647
#define INT_MIN (-INT_MAX - 1)
#define UINT_MAX 4294967295u
#define SIZE_MAX ((size_t)-1)
#define EOF (-1)
void *malloc(size_t);
void *realloc(void *, size_t);
void free(void *);
size_t strlen(const char *);
char *strcpy(char *, const char *);
char *strncpy(char *, const char *, size_t);
char *strcat(char *, const char *);
char *strncat(char *, const char *, size_t);
int strcmp(const char *, const char *);
int strncmp(const char *, const char *, size_t);
char *strchr(const char *, int);
char *strrchr(const char *, int);
char *strstr(const char *, const char *);
char *strpbrk(const char *, const char *);
size_t strspn(const char *, const char *);
size_t strcspn(const char *, const char *);
void *memcpy(void *, const void *, size_t);
void *memmove(void *, const void *, size_t);
void *memset(void *, int, size_t);
int memcmp(const void *, const void *, size_t);
void *memchr(const void *, int, size_t);
int sprintf(char *, const char *, ...);
int snprintf(char *, size_t, const char *, ...);
int sscanf(const char *, const char *, ...);
int atoi(const char *);
int abs(int);
int isdigit(int);
int isalpha(int);
int isalnum(int);
int isspace(int);
int islower(int);
int isupper(int);
int toupper(int);
int tolower(int);
int vsnprintf(char *, size_t, const char *, __builtin_va_list);
static int judge_live, judge_frees, judge_calls, judge_fail_at, judge_slack, judge_keep;
static int judge_open, judge_open_fails, judge_write_fails;
static size_t judge_total;
static const char *judge_input;
static char judge_out[512], judge_cmd[512], judge_path[512];
static FILE judge_stdout, judge_opened;
/* Blocks of more than 16 MiB, or 64 MiB in all, are out of memory. */
static int judge_counts(size_t n) {
  return ++judge_calls != judge_fail_at && n <= 1 << 24 && (judge_total += n) <= 1 << 26;
}
static void *judge_malloc(size_t n) {
  if (!judge_counts(n)) return NULL;
  judge_live++;
  return malloc(n + judge_slack);
}
static void *judge_calloc(size_t n, size_t size) {
  if (size && n > SIZE_MAX / size) return NULL;
  void *p = judge_malloc(n * size);
  return p ? memset(p, 0, n * size) : p;
}
static void *judge_realloc(void *p, size_t n) {
  if (!judge_counts(n)) return NULL;
  if (!p) judge_live++;
  return realloc(p, n + judge_slack);
}
static char *judge_strdup(const char *s) {
  char *p = judge_malloc(strlen(s) + 1);
  return p ? strcpy(p, s) : p;
}
static void judge_free(void *p) {
  if (!p) return;
  judge_live--;
  judge_frees++;
  if (!judge_keep) free(p);
}
static int judge_vprint(const char *format, __builtin_va_list args) {
  if (judge_write_fails) return EOF;
  size_t used = strlen(judge_out);
  return vsnprintf(judge_out + used, sizeof(judge_out) - used, format, args);
}
static int judge_printf(const char *format, ...) {
  __builtin_va_list args;
  __builtin_va_start(args, format);
  int n = judge_vprint(format, args);
  __builtin_va_end(args);
  return n;
}
static int judge_fprintf(FILE *stream, const char *format, ...) {
  stream->number++;
  __builtin_va_list args;
  __builtin_va_start(args, format);
  int n = judge_vprint(format, args);
  __builtin_va_end(args);
  return n;
}
static int judge_fputs(const char *s, FILE *stream) { return judge_fprintf(stream, "%s", s); }
static int judge_puts(const char *s) { return judge_printf("%s\\n", s); }
static int judge_putchar(int c) { return judge_printf("%c", c); }
static void judge_record(char *where, const char *what) { snprintf(where, 512, "%s", what); }
static int judge_system(const char *command) { judge_record(judge_cmd, command); return 0; }
static int judge_remove(const char *path) { judge_record(judge_path, path); return 0; }
static FILE *judge_fopen(const char *path, const char *mode) {
  if (!mode[0] || judge_open_fails) return NULL;
  judge_record(judge_path, path);
  judge_open++;
  return &judge_opened;
}
static int judge_fclose(FILE *stream) { stream->number++; judge_open--; return 0; }
static char *judge_fgets(char *to, int n, FILE *stream) {
  stream->number++;
  if (!judge_input || n <= 0) return NULL;
  strncpy(to, judge_input, n);
  to[n - 1] = 0;
  return to;
}
static int judge_fgetc(FILE *stream) { stream->number++; return judge_input && judge_input[0] ? *judge_input++ : EOF; }
#define malloc judge_malloc
#define calloc judge_calloc
#define realloc judge_realloc
#define strdup judge_strdup
#define free judge_free
#define printf judge_printf
#define fprintf judge_fprintf
#define fputs judge_fputs
#define puts judge_puts
#define putchar judge_putchar
#define system judge_system
#define remove judge_remove
#define fopen judge_fopen
#define fclose judge_fclose
#define fgets judge_fgets
#define fgetc judge_fgetc
#define stdout (&judge_stdout)
#define stderr (&judge_stdout)
`

/** Helpers of the tests, after the program; blocks made here have their exact size and are not counted. */
export const testSupport = `
#undef malloc
int dprintf(int, const char *, ...);
#undef free
#define CHECK(c) do { if (!(c)) return __LINE__; } while (0)
#define NEG(r) judge_negative(r)
#define FAIL(k) (judge_calls = 0, judge_fail_at = (k))
static int judge_negative(int r) { return r < 0 && r >= -99; }
static int judge_ended(const char *s, size_t n) { return memchr(s, 0, n) != NULL; }
static int judge_plain(void) { int ok = !strpbrk(judge_cmd, ";|&"); judge_cmd[0] = 0; return ok; }
static void *judge_bytes(size_t n) { return memset(malloc(n), 'x', n); }
static int *judge_ints(size_t n) { return memset(malloc(n * sizeof(int)), 0, n * sizeof(int)); }
static char *judge_text(const char *s) { return strcpy(malloc(strlen(s) + 1), s); }
static void *judge_heap(size_t n) { judge_live++; return memset(malloc(n), 0, n); }
static FILE *judge_file(void) { return &judge_opened; }
#define free judge_free
`
