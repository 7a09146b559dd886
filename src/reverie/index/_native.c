/* What adding steps and drawing small windows cost most, in C. Each function is the twin of NumPy code beside it.

   Arguments are checked before anything is written: a call that raises has changed nothing. Integers are int64
   unless it says otherwise, and all arrays are C-contiguous. The module needs Python's stable ABI of 3.11 alone. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <float.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif
#if !defined(__GNUC__)
#define __builtin_prefetch(...) (void)0
#endif

#define FAN 16            /* children of a node of a sum tree, as in samplers/sumtree.py */
#define LEVELS 16         /* more than a tree of 2**62 leaves has */
#define LARGE (1 << 20)   /* bytes of a copy that other threads need not wait for */
#define AHEAD 8           /* windows, or nodes, that are fetched into the cache before they are read */
#define LINE 64           /* bytes of a cache line */
#define PASSING 1024      /* bytes of a row that goes past the cache into its slot */
#define FETCHED 8192      /* bytes of a window; behind them the processor sees a sequence by itself */
#define VALUES 6          /* of a step: obs, action, reward, terminated, truncated, final_obs */
#define COUNT(array) (Py_ssize_t)(sizeof(array) / sizeof *(array))
#define FAIL(...) (PyErr_Format(__VA_ARGS__), -1)
enum { NO_FINAL = -1, TERMINATED = 1, TRUNCATED = 2 };  /* as in index/arrays.py */

/* --- what a call is given --------------------------------------------------------------------------------------- */

/* Kinds of arguments. Of an array of any kind the rows are counted, else the items. */
enum { NUMBER, ANY, INT64, INT32, INT8, BOOL, FLOAT64, FLOAT32 };
static const char *const FORMATS[] = {"", "", "lq", "i", "b", "?", "d", "f"};  /* as the struct module names them */
static const Py_ssize_t SIZES[] = {0, 0, 8, 4, 1, 1, 8, 4};

enum { READ, WRITTEN, MAYBE };  /* MAYBE: it is read, and may be None */

/* What an argument has to be, and where it goes. */
typedef struct {
    const char *name;
    int kind, how;     /* of a number: the least that it may be */
    void *to;          /* a pointer to the items, or an int64_t */
    int64_t *count;    /* of items; arrays that have as many share it; -1 as long as none was taken */
} Want;

/* What a call holds, released together: a view of each argument, which is zero until it is taken, and memory. */
typedef struct {
    Py_buffer *views;
    Py_ssize_t used;
    void *blocks[3];
    int taken;
} Held;

/* Return zeroed memory for as long as the call lasts; NULL with an error set. */
static void *memory(Held *held, int64_t count, size_t size)
{
    void *block = PyMem_Calloc((size_t)count + 1, size);
    return block == NULL ? PyErr_NoMemory() : (held->blocks[held->taken++] = block);
}

static PyObject *let_go(Held *held, PyObject *result)
{
    for (Py_ssize_t each = 0; each < held->used; each++) PyBuffer_Release(&held->views[each]);
    while (held->taken > 0) PyMem_Free(held->blocks[--held->taken]);
    return result;
}

/* Begin a call of `least` to `most` arguments, the later ones in groups. */
static int begin(Held *held, Py_ssize_t nargs, Py_ssize_t least, Py_ssize_t most, Py_ssize_t group)
{
    memset(held, 0, sizeof *held);
    if (nargs < least || nargs > most || (nargs - least) % group != 0)
        return FAIL(PyExc_TypeError, "wanted %zd arguments or more, got %zd", least, nargs);
    return (held->views = memory(held, nargs, sizeof(Py_buffer))) == NULL ? -1 : 0;
}

static int is_of(const Py_buffer *view, const char *formats, Py_ssize_t size)
{
    const char *format = view->format;
    return format[0] != '\0' && format[1] == '\0' && strchr(formats, format[0]) != NULL && view->itemsize == size
        && (uintptr_t)view->buf % (uintptr_t)size == 0;
}

/* Take arguments as they are wanted; return -1 with an error set if one is not so. */
static int take(Held *held, const Want *want, Py_ssize_t count, PyObject *const *args)
{
    for (const Want *end = want + count; want < end; want++, args++) {
        Py_buffer *view = &held->views[held->used++];
        if (want->kind == NUMBER) {
            int64_t value = PyLong_AsLongLong(*args);
            if (value == -1 && PyErr_Occurred()) return -1;
            if (value < want->how || value > INT64_MAX / 4)
                return FAIL(PyExc_ValueError, "%s: wanted an integer of at least %d", want->name, want->how);
            *(int64_t *)want->to = value;
            continue;
        }
        if (want->how == MAYBE && *args == Py_None) continue;
        int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (want->how == WRITTEN ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(*args, view, flags) < 0) return -1;
        Py_ssize_t size = SIZES[want->kind], rows = view->ndim > 0 ? view->shape[0] : 0;
        Py_ssize_t got = size > 0 ? view->len / size : rows, wanted = (Py_ssize_t)*want->count;
        if (size > 0 && !is_of(view, FORMATS[want->kind], size))
            return FAIL(PyExc_TypeError, "%s: wanted aligned items of %zd bytes of a kind in '%s', got %zd of '%s'",
                        want->name, size, FORMATS[want->kind], view->itemsize, view->format);
        if (wanted >= 0 && got != wanted)
            return FAIL(PyExc_ValueError, "%s: wanted %zd items, got %zd", want->name, wanted, got);
        *want->count = got;
        if (want->to != NULL) memcpy(want->to, &view->buf, sizeof view->buf);
    }
    return 0;
}

/* Ask for bytes that are read soon. The second cache has room for all of a small batch, and takes more at once. */
static void fetch(const void *from, size_t bytes)
{
    for (size_t at = 0; at < bytes && at < FETCHED; at += LINE) __builtin_prefetch((const char *)from + at, 0, 2);
}

/* --- which proposed steps are anchors --------------------------------------------------------------------------- */

PyDoc_STRVAR(choose_doc,
"Return how many steps are anchors: `length` settled steps of their episode begin with them.\n\n"
"With None for `kinds`, `steps` are ids of live steps, and `streams` says of which streams, None of the only one.\n"
"Episodes and ids of the first anchors are set, as many as there is room for. Twin of `Inside.accept`.\n\n"
"Else `steps` are slots of the only stream. Episode and id of each are set, and its kind: 1 it is an anchor; 0 it may\n"
"become one; -1 it never can; -2 it is not live. Twin of `StepWeights.propose`.");

static PyObject *choose(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    int by_slot = nargs == 12 && args[11] != Py_None;
    const int64_t *steps, *streams = NULL, *settled;
    const int32_t *episode_of;
    const int8_t *ended;
    int8_t *kinds;
    int64_t tail, head, capacity, length, count = -1, slots = -1, entries = -1, some = -1, good = 0;
    int64_t *episodes, *ids, *found = NULL, *room = by_slot ? &count : &some;
    const Want wants[] = {
        {"steps", INT64, READ, &steps, &count}, {"streams", INT64, MAYBE, &streams, &count},
        {"tail", NUMBER, 0, &tail, NULL}, {"head", NUMBER, 0, &head, NULL},
        {"capacity", NUMBER, 1, &capacity, NULL}, {"length", NUMBER, 1, &length, NULL},
        {"episode_of_slot", INT32, READ, &episode_of, &slots},
        {"settled", INT64, READ, &settled, &entries}, {"ended", INT8, READ, &ended, &entries},
        {"episodes", INT64, WRITTEN, &episodes, room}, {"ids", INT64, WRITTEN, &ids, room},
        {"kinds", INT8, by_slot ? WRITTEN : MAYBE, &kinds, &count},
    };
    Held held;
    if (begin(&held, nargs, COUNT(wants), COUNT(wants), 1) < 0 || take(&held, wants, COUNT(wants), args) < 0
        || (found = memory(&held, count, sizeof(int64_t))) == NULL)
        return let_go(&held, NULL);
    for (int64_t each = 0; good == 0 && each < count; each++) {
        int64_t step = steps[each], lane = streams == NULL ? 0 : streams[each];
        int is_there = step >= 0 && step < (by_slot ? capacity : INT64_MAX / 4) && lane >= 0 && lane < slots / capacity;
        if (!is_there) good = -1;
        else fetch(&episode_of[found[each] = step % capacity + lane * capacity], 1);
    }
    for (int64_t each = 0; good == 0 && each < count; each++) {
        found[each] = episode_of[found[each]];
        if (found[each] < 0 || found[each] >= entries) good = -1;
    }
    if (good < 0) PyErr_SetString(PyExc_IndexError, "steps: wanted those that the index has, got others");
    for (int64_t each = 0; good >= 0 && each < count; each++) {
        int64_t episode = found[each], id = steps[each];
        if (by_slot) id = tail + ((id - tail) % capacity + capacity) % capacity;
        int is_live = !by_slot || id < head, is_good = is_live && id + (length - 1) < settled[episode];
        int64_t place = by_slot ? each : good;
        if (by_slot) kinds[each] = (int8_t)(is_good ? 1 : !is_live ? -2 : ended[episode] != 0 ? -1 : 0);
        if (by_slot || (is_good && good < some)) {
            episodes[place] = episode;
            ids[place] = id;
        }
        good += is_good;
    }
    return let_go(&held, good < 0 ? NULL : PyLong_FromLongLong(good));
}

/* --- filling a batch -------------------------------------------------------------------------------------------- */

/* One column that is copied. */
typedef struct {
    const char *from, *finals;
    char *to;
    size_t row;
    int64_t shown;  /* rows of a window, one more of an observation */
} Column;

/* Whole windows inside one episode each: their addresses, what is known of episodes, and what a batch says of them. */
typedef struct {
    int64_t count, entries, length, burn_in, slots, capacity, finals, bytes;
    const int64_t *stream, *start, *episode, *first, *stop, *final_slot;
    const int8_t *ended;
    char *terminated, *truncated, *is_first, *obs_mask, *train_mask;
    int64_t *slot;  /* where each window begins */
    float *weight;
} Windows;

/* Take a column, its array of the batch, and its final observations, or None if it is none of an observation. */
static int column(Held *held, Column *it, PyObject *const *args, Windows *w)
{
    const Py_buffer *view = &held->views[held->used];
    const Want wants[] = {{"column", ANY, READ, &it->from, &w->slots}, {"array", ANY, WRITTEN, &it->to, &w->count},
                          {"finals", ANY, MAYBE, &it->finals, &w->finals}};
    if (take(held, wants, COUNT(wants), args) < 0) return -1;
    int64_t row = view[0].len / w->slots;
    w->bytes += view[1].len;
    it->row = (size_t)row;
    it->shown = w->length + (args[2] != Py_None);
    if ((row > 0 && (view[1].len % row != 0 || view[1].len / row != w->count * it->shown))
        || (args[2] != Py_None && w->finals > 0 && view[2].len / w->finals != row))
        return FAIL(PyExc_ValueError, "array, finals: wanted as many rows as are shown, of %zd bytes", (Py_ssize_t)row);
    return 0;
}

/* Whether every window lies where there is something to read; sets where it begins. */
static int windows_fit(Windows *w)
{
    for (int64_t each = 0; each < w->count; each++) {
        int64_t episode = w->episode[each], start = w->start[each], stream = w->stream[each];
        if (episode < 0 || episode >= w->entries || start < 0 || start > INT64_MAX / 4) return 0;
        if (stream < 0 || stream >= w->slots / w->capacity) return 0;
        int ends = start + w->length == w->stop[episode];
        int64_t last = w->final_slot[episode];
        if (w->length + !ends > w->capacity) return 0;
        if (ends && last != NO_FINAL && (last < 0 || (w->finals >= 0 && last >= w->finals))) return 0;
        w->slot[each] = start % w->capacity + stream * w->capacity;
    }
    return 1;
}

static void copy_columns(const Windows *w, const Column *columns, const Column *end)
{
    for (int64_t each = -AHEAD; each < w->count; each++) {
        for (const Column *it = columns; it < end; it++) {
            size_t row = it->row;
            if (each + AHEAD < w->count) fetch(it->from + (size_t)w->slot[each + AHEAD] * row, (size_t)it->shown * row);
            if (each < 0) continue;
            int64_t slot = w->slot[each], base = w->stream[each] * w->capacity, left = base + w->capacity - slot;
            int ends = it->shown > w->length && w->start[each] + w->length == w->stop[w->episode[each]];
            int64_t rows = it->shown - ends, straight = rows < left ? rows : left;
            char *to = it->to + (size_t)(each * it->shown) * row, *behind = to + (size_t)rows * row;
            memcpy(to, it->from + (size_t)slot * row, (size_t)straight * row);
            if (straight < rows)  /* it goes on at the beginning of the stream's slots */
                memcpy(to + (size_t)straight * row, it->from + (size_t)base * row, (size_t)(rows - straight) * row);
            if (!ends) continue;
            /* The successor lies beside the ring; where none is known, the last observation stands for it. */
            int64_t last = w->final_slot[w->episode[each]];
            memcpy(behind, last == NO_FINAL ? behind - row : it->finals + (size_t)last * row, row);
        }
    }
}

/* Set what a batch says of its windows; `views` are those of the first arguments of `fill`, in their order. */
static void set_flags(const Windows *w, const Py_buffer *views)
{
    for (int each = 0; each < 6; each++) memset(views[each].buf, each >= 3, (size_t)views[each].len);
    for (int each = 6; each < 9; each++) memcpy(views[each].buf, views[each + 4].buf, (size_t)views[each].len);
    for (int64_t each = 0; each < w->count; each++) {
        int64_t episode = w->episode[each], last = (each + 1) * w->length - 1;
        w->weight[each] = 1.0f;
        w->is_first[each * (w->length + 1)] = w->start[each] == w->first[episode];
        memset(w->train_mask + each * w->length, 0, (size_t)w->burn_in);
        if (w->start[each] + w->length == w->stop[episode]) {
            w->terminated[last] = (w->ended[episode] & TERMINATED) != 0;
            w->truncated[last] = (w->ended[episode] & TRUNCATED) != 0;
            w->obs_mask[last + each + 1] = w->final_slot[episode] != NO_FINAL;
        }
    }
}

PyDoc_STRVAR(fill_doc,
"Fill the arrays of a batch of whole windows in one episode each; all weights are 1. Twin of `Gatherer._sequences`.\n\n"
"Behind what it wants below come three arguments for each column: what is stored, rows first; its array of the batch;\n"
"and the final observations, None if it is no observation. `slots` is the number of rows of a column.");

static PyObject *fill(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    Windows w = {.count = -1, .entries = -1, .finals = -1};
    int64_t steps = -1, shown = -1;
    const Want wants[] = {
        {"terminated", BOOL, WRITTEN, &w.terminated, &steps}, {"truncated", BOOL, WRITTEN, &w.truncated, &steps},
        {"is_first", BOOL, WRITTEN, &w.is_first, &shown}, {"mask", BOOL, WRITTEN, NULL, &steps},
        {"obs_mask", BOOL, WRITTEN, &w.obs_mask, &shown}, {"train_mask", BOOL, WRITTEN, &w.train_mask, &steps},
        {"stream", INT64, WRITTEN, NULL, &w.count}, {"start", INT64, WRITTEN, NULL, &w.count},
        {"anchor", INT64, WRITTEN, NULL, &w.count}, {"weight", FLOAT32, WRITTEN, &w.weight, &w.count},
        {"streams", INT64, READ, &w.stream, &w.count}, {"starts", INT64, READ, &w.start, &w.count},
        {"anchors", INT64, READ, NULL, &w.count}, {"episodes", INT64, READ, &w.episode, &w.count},
        {"first", INT64, READ, &w.first, &w.entries}, {"stop", INT64, READ, &w.stop, &w.entries},
        {"final_slot", INT64, READ, &w.final_slot, &w.entries}, {"ended", INT8, READ, &w.ended, &w.entries},
        {"length", NUMBER, 1, &w.length, NULL}, {"burn_in", NUMBER, 0, &w.burn_in, NULL},
        {"slots", NUMBER, 1, &w.slots, NULL}, {"capacity", NUMBER, 1, &w.capacity, NULL},
    };
    Held held;
    Column *columns = NULL, *end = NULL;
    int failed = begin(&held, nargs, COUNT(wants), PY_SSIZE_T_MAX, 3) < 0 || take(&held, wants, COUNT(wants), args) < 0
        || (end = columns = memory(&held, nargs / 3, sizeof(Column))) == NULL
        || (w.slot = memory(&held, w.count, sizeof(int64_t))) == NULL;
    if (!failed && (w.burn_in > w.length || steps / w.length != w.count || steps % w.length != 0
                    || shown != steps + w.count))
        failed = FAIL(PyExc_ValueError, "length, burn_in: wanted those of the batch, got others");
    for (Py_ssize_t at = COUNT(wants); !failed && at < nargs; at += 3) failed = column(&held, end++, args + at, &w);
    if (!failed && !windows_fit(&w)) failed = FAIL(PyExc_IndexError, "starts: wanted windows of steps that are stored");
    if (!failed) {
        PyThreadState *state = w.bytes >= LARGE ? PyEval_SaveThread() : NULL;
        copy_columns(&w, columns, end);
        set_flags(&w, held.views);
        if (state != NULL) PyEval_RestoreThread(state);
    }
    return let_go(&held, failed ? NULL : Py_NewRef(Py_None));
}

/* --- sum trees -------------------------------------------------------------------------------------------------- */

/* A tree of wide nodes: leaves first, the root last. */
typedef struct {
    int64_t count, barred;       /* levels; leaves that are negative, and count as zero */
    double *level[LEVELS];
    int64_t size[LEVELS];        /* children on a level */
    double *root_sums;
} Tree;

/* Set what the children of a node add to it. */
static void read_node(const Tree *it, int64_t level, int64_t node, double *children)
{
    memcpy(children, it->level[level] + node * FAN, FAN * sizeof(double));
    for (int at = 0; level == 0 && it->barred && at < FAN; at++) children[at] = children[at] > 0.0 ? children[at] : 0.0;
}

/* Set the places that targets fall into, and return how many of these have no weight. */
static int64_t descend(const Tree *it, const double *targets, double *left, int64_t *places, int64_t count)
{
    int64_t root = it->count - 1, missed = 0;
    for (int64_t each = 0; each < count; each++) {
        int64_t low = 0;  /* the first child whose running sum is above the target, or the last one */
        for (int64_t high = it->size[root] - 1; low < high;) {
            int64_t middle = (low + high) / 2;
            if (it->root_sums[middle] > targets[each]) high = middle;
            else low = middle + 1;
        }
        left[each] = targets[each] - it->root_sums[low] + it->level[root][low];
        places[each] = low;
    }
    for (int64_t level = root - 1; level >= 0; level--) {
        int64_t nodes = it->size[level] / FAN;  /* rounding may have led beyond them */
        for (int64_t each = 0; each < count; each++) {
            if (places[each] >= nodes) places[each] = nodes - 1;
            fetch(it->level[level] + places[each] * FAN, FAN * sizeof(double));
        }
        for (int64_t each = 0; each < count; each++) {
            double children[FAN], running[FAN];
            read_node(it, level, places[each], children);
            int64_t child = (running[0] = children[0]) <= left[each];
            for (int at = 1; at < FAN; at++) child += (running[at] = running[at - 1] + children[at]) <= left[each];
            child = child < FAN ? child : FAN - 1;
            left[each] = left[each] - running[child] + children[child];
            places[each] = places[each] * FAN + child;
        }
    }
    for (int64_t each = 0; each < count; each++) missed += !(it->level[0][places[each]] > 0.0);
    return missed;
}

/* Compute every sum that one of these leaves is part of. */
static void ascend(const Tree *it, int64_t *nodes, int64_t count)
{
    for (int64_t level = 0; level < it->count - 1; level++) {
        for (int64_t each = 0; each < count; each++) {
            nodes[each] /= FAN;
            fetch(it->level[level] + nodes[each] * FAN, FAN * sizeof(double));
        }
        for (int64_t each = 0; each < count; each++) {
            double children[FAN], pair[FAN / 2];  /* NumPy adds up 16 numbers in this order */
            read_node(it, level, nodes[each], children);
            for (int at = 0; at < FAN / 2; at++) pair[at] = children[at] + children[at + FAN / 2];
            it->level[level + 1][nodes[each]] =
                ((pair[0] + pair[1]) + (pair[2] + pair[3])) + ((pair[4] + pair[5]) + (pair[6] + pair[7]));
        }
    }
    int64_t root = it->count - 1;
    double sum = 0.0;
    for (int64_t each = 0; each < it->size[root]; each++) {
        double child = it->level[root][each];
        if (root == 0 && it->barred && !(child > 0.0)) child = 0.0;
        it->root_sums[each] = sum = each == 0 ? child : sum + child;
    }
}

PyDoc_STRVAR(walk_doc, "walk(targets, places, barred, root_sums, *levels)\n--\n\n"
"Down: set the places that targets fall into; return how many of these have no weight. Twin of `SumTree.find`.\n\n"
"Up, with None for targets: compute every sum that one of these places is part of; return 0. Twin of\n"
"`SumTree._add_up`, whose order of additions it keeps. `barred` is how many leaves are negative, and count as zero.");

static PyObject *walk(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    Held held;
    if (begin(&held, nargs, 5, 4 + LEVELS, 1) < 0) return let_go(&held, NULL);
    Tree it = {.count = nargs - 4};
    const double *targets;
    int64_t count = -1, missed = 0, *places, *work = NULL, *size = it.size, root = it.count - 1;
    int up = args[0] == Py_None, out = up ? WRITTEN : READ;
    const Want wants[] = {
        {"targets", FLOAT64, MAYBE, &targets, &count}, {"places", INT64, up ? READ : WRITTEN, &places, &count},
        {"barred", NUMBER, 0, &it.barred, NULL}, {"root_sums", FLOAT64, out, &it.root_sums, &size[root]},
    };
    memset(size, -1, sizeof it.size);
    int failed = take(&held, wants, COUNT(wants), args) < 0 || (work = memory(&held, count, sizeof(int64_t))) == NULL;
    for (int64_t each = 0; !failed && each <= root; each++) {
        const Want level = {"levels", FLOAT64, each > 0 ? out : READ, &it.level[each], &size[each]};
        failed = take(&held, &level, 1, &args[4 + each]);
        if (!failed && (size[each] < (each > 0 ? size[each - 1] / FAN : 1) || (each < root && size[each] % FAN != 0)))
            failed = FAIL(PyExc_ValueError, "levels: wanted nodes of %d children, and a parent for each node", FAN);
    }
    for (int64_t each = 0; up && !failed && each < count; each++)
        if (places[each] < 0 || places[each] >= size[0]) failed = FAIL(PyExc_IndexError, "places: wanted leaves");
    if (!failed && up) ascend(&it, memcpy(work, places, (size_t)count * sizeof(int64_t)), count);
    if (!failed && !up) missed = descend(&it, targets, (double *)(void *)work, places, count);
    return let_go(&held, failed ? NULL : PyLong_FromLongLong(missed));
}

/* --- adding ----------------------------------------------------------------------------------------------------- */

/* The arrays of a buffer, held as long as this lives, and the kinds of values that are taken at first sight. */
typedef struct {
    Held held;                                                 /* its views begin with obs, action and reward */
    int64_t streams, slots, entries, capacity, *head, *tail, *open, *front_stop, *stop, *settled;
    int32_t *episode_of;
    double *total;
    float *reward;
    PyObject *kinds[4];                                        /* as `place` tells */
} Place;

static void forget(PyObject *capsule)
{
    Place *it = PyCapsule_GetPointer(capsule, "place");
    let_go(&it->held, NULL);
    for (int each = 0; each < 4; each++) Py_XDECREF(it->kinds[each]);
    PyMem_Free(it);
}

PyDoc_STRVAR(place_doc,
"Return what `put` and `put_lanes` need. Behind what it wants below come ndarray, the type of an action that is a\n"
"number, a set of types of rewards, and NumPy's False.");

static PyObject *place(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    Place *it = PyMem_Calloc(1, sizeof(Place));
    PyObject *capsule = it == NULL ? PyErr_NoMemory() : PyCapsule_New(it, "place", forget);
    if (capsule == NULL) return PyMem_Free(it), NULL;
    it->streams = it->slots = it->entries = -1;
    const Want wants[] = {
        {"obs", ANY, WRITTEN, NULL, &it->slots}, {"action", ANY, WRITTEN, NULL, &it->slots},
        {"reward", FLOAT32, WRITTEN, &it->reward, &it->slots},
        {"head", INT64, WRITTEN, &it->head, &it->streams}, {"tail", INT64, WRITTEN, &it->tail, &it->streams},
        {"open_episode", INT64, READ, &it->open, &it->streams},
        {"front_stop", INT64, READ, &it->front_stop, &it->streams},
        {"episode_of_slot", INT32, WRITTEN, &it->episode_of, &it->slots},
        {"stop", INT64, WRITTEN, &it->stop, &it->entries}, {"settled", INT64, WRITTEN, &it->settled, &it->entries},
        {"total", FLOAT64, WRITTEN, &it->total, &it->entries}, {"capacity", NUMBER, 1, &it->capacity, NULL},
    };
    Py_ssize_t count = COUNT(wants);
    int failed = begin(&it->held, nargs, count + 4, count + 4, 1) < 0 || take(&it->held, wants, count, args) < 0;
    for (int each = 0; !failed && each < 4; each++) it->kinds[each] = Py_NewRef(args[count + each]);
    if (!failed && (it->slots == 0 || it->slots % it->capacity != 0 || it->slots / it->capacity != it->streams
                    || it->held.views[2].ndim != 1))
        failed = FAIL(PyExc_ValueError, "obs, action, reward: wanted a row for each slot of each stream");
    return failed ? Py_DECREF(capsule), NULL : capsule;
}

/* Return the bytes of a row like those of a column, or of one of each stream; NULL for what is not taken. */
static const char *rows(const Place *it, Py_buffer *view, PyObject *object, int column, const char *formats, int lanes)
{
    const Py_buffer *like = &it->held.views[column];
    PyObject *kind = (PyObject *)Py_TYPE(object);
    int is_number = !lanes && column == 1 && kind == it->kinds[1];
    if ((kind != it->kinds[0] && !is_number) || PyObject_GetBuffer(object, view, PyBUF_STRIDES | PyBUF_FORMAT) < 0)
        return NULL;
    int fits = view->ndim == like->ndim - 1 + lanes && (!lanes || view->shape[0] == it->streams)
        && is_of(view, formats, view->itemsize) && PyBuffer_IsContiguous(view, 'C');
    for (int axis = 1; fits && axis < like->ndim; axis++) fits = view->shape[axis - 1 + lanes] == like->shape[axis];
    return fits ? view->buf : NULL;
}

/* Set the bytes of a whole number that a column of such takes; return them, NULL for anything else. */
static const char *whole(PyObject *object, const Py_buffer *like, char *bytes)
{
    if (like->ndim != 1 || strchr("bBhHiIlLqQ", like->format[0]) == NULL) return NULL;
    int overflow, is_signed = like->format[0] >= 'a', spare = 64 - 8 * (int)like->itemsize;
    int64_t value = PyLong_AsLongLongAndOverflow(object, &overflow);
    uint64_t low = (uint64_t)value << spare;  /* the bits that there is room for */
    int64_t back = is_signed ? (int64_t)low >> spare : (int64_t)(low >> spare);
    if (overflow != 0 || value != back || (!is_signed && value < 0)) return NULL;
    return memcpy(bytes, (char *)&value + (PY_LITTLE_ENDIAN ? 0 : 8 - like->itemsize), (size_t)like->itemsize);
}

/* Copy a row to its slot. A long one goes past the cache, which keeps what is read sooner. */
static void put_row(char *to, const char *from, size_t row)
{
#if defined(__SSE2__)
    if (row >= PASSING && row % 16 == 0 && (uintptr_t)to % 16 == 0 && (from + row <= to || to + row <= from)) {
        for (size_t at = 0; at < row; at += 16)
            _mm_stream_si128((void *)(to + at), _mm_loadu_si128((const void *)(from + at)));
        _mm_sfence();  /* other threads see it before they are told of it */
        return;
    }
#endif
    memmove(to, from, row);
}

/* If they fit, store steps of `count` streams from the stream `first` on, each of which goes on with its episode. */
static PyObject *store(Place *it, Py_buffer *views, const char *const *from, int fits, int64_t first, int64_t count)
{
    const Py_buffer *columns = it->held.views;
    const float *narrow = views[2].itemsize == sizeof(float) ? (const void *)from[2] : NULL;
    fits = fits && columns[0].len / it->slots * count < LARGE;  /* the rest lets other threads go on */
    for (int64_t turn = 0; fits && turn < 2 * count; turn++) {  /* all are looked at before one is stored */
        int64_t lane = turn % count, stream = first + lane;
        int64_t head = it->head[stream], tail = it->tail[stream], episode = it->open[stream];
        double reward = narrow != NULL ? (double)narrow[lane] : ((const double *)(const void *)from[2])[lane];
        fits = reward >= -FLT_MAX && reward <= FLT_MAX && tail >= 0 && tail <= head && head < INT64_MAX / 4
            && episode >= 0 && episode < it->entries
            && (head - tail < it->capacity || tail + 1 < it->front_stop[stream]);
        if (!fits || turn < count) continue;
        int64_t slot = stream * it->capacity + head % it->capacity;
        for (int column = 0; column < 2; column++) {
            size_t row = (size_t)(columns[column].len / it->slots);
            put_row((char *)columns[column].buf + (size_t)slot * row, from[column] + (size_t)lane * row, row);
        }
        it->reward[slot] = (float)reward;
        it->episode_of[slot] = (int32_t)episode;
        it->total[episode] += (float)reward;
        it->settled[episode] = head;
        it->tail[stream] += head - tail == it->capacity;
        it->stop[episode] = it->head[stream] = head + 1;
    }
    for (int each = 0; each < VALUES; each++) PyBuffer_Release(&views[each]);
    if (!fits) PyErr_Clear();
    return PyBool_FromLong(fits);
}

PyDoc_STRVAR(put_doc, "put(place, obs, action, reward, terminated, truncated, stream)\n--\n\n"
"Store a step that goes on with its episode if it fits at first sight; return whether it does. Twin of `Quick.add`.");

static PyObject *put(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    Place *it = PyCapsule_GetPointer(nargs == 7 ? args[0] : NULL, "place");
    if (it == NULL) return NULL;
    const Py_buffer *columns = it->held.views;
    Py_buffer views[VALUES] = {{0}};
    char bytes[8];
    double reward = 0.0;
    Py_ssize_t stream = 0;
    const char *from[] = {NULL, NULL, (const char *)&reward};
    int fits = (args[4] == Py_False || args[4] == it->kinds[3]) && (args[5] == Py_False || args[5] == it->kinds[3])
        && PyLong_CheckExact(args[6]) && (stream = PyLong_AsSsize_t(args[6])) >= 0 && stream < it->streams
        && PySet_Contains(it->kinds[2], (PyObject *)Py_TYPE(args[3])) == 1
        && ((reward = PyFloat_AsDouble(args[3])) != -1.0 || !PyErr_Occurred())
        && (from[0] = rows(it, &views[0], args[1], 0, columns[0].format, 0)) != NULL
        && (from[1] = PyLong_CheckExact(args[2]) ? whole(args[2], &columns[1], bytes)
                                                 : rows(it, &views[1], args[2], 1, columns[1].format, 0)) != NULL;
    return store(it, views, from, fits, stream, 1);
}

PyDoc_STRVAR(put_lanes_doc,
"Do the same for a step of each stream; in the place of `stream` stands `final_obs`. Twin of `QuickLanes.add`.");

static PyObject *put_lanes(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    Place *it = PyCapsule_GetPointer(nargs == 7 ? args[0] : NULL, "place");
    if (it == NULL) return NULL;
    const char *obs = it->held.views[0].format, *const formats[] = {obs, it->held.views[1].format, "fd", "?", "?", obs};
    static const int columns[] = {0, 1, 2, 2, 2, 0};
    Py_buffer views[VALUES] = {{0}};
    const char *from[VALUES];
    int fits = 1;
    for (int each = 0; fits && each < VALUES - (args[6] == Py_None); each++)
        fits = (from[each] = rows(it, &views[each], args[1 + each], columns[each], formats[each], 1)) != NULL;
    for (int64_t lane = 0; fits && lane < it->streams; lane++) fits = from[3][lane] == 0 && from[4][lane] == 0;
    return store(it, views, from, fits, 0, it->streams);
}

#define FUNCTION(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, name##_doc}
static PyMethodDef methods[] = {
    FUNCTION(choose), FUNCTION(walk), FUNCTION(fill), FUNCTION(place), FUNCTION(put), FUNCTION(put_lanes), {0},
};

static int execute(PyObject *module)
{
    return PyModule_AddIntConstant(module, "TWINS", 4);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)(intptr_t)execute}, {0, NULL}};
static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_native", .m_doc = "The twins in C of functions that stand beside it.",
    .m_methods = methods, .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
