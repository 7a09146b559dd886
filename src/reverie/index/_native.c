/* What drawing small windows costs most, in C. Each function is the twin of NumPy code that stays beside it.

   Arguments are checked before anything is written: a call that raises has changed nothing. Integers are int64
   unless it says otherwise, and all arrays are C-contiguous. The module needs Python's stable ABI of 3.11 alone. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <float.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#define FAN 16            /* children of a node of a sum tree, as in samplers/sumtree.py */
#define LEVELS 16         /* more than a tree of 2**62 leaves has */
#define LARGE (1 << 20)   /* bytes of a copy that other threads need not wait for */
#define AHEAD 8           /* windows, or nodes, that are fetched into the cache before they are read */
#define LINE 64           /* bytes of a cache line */
#define FETCHED 8192      /* bytes of a window; behind them the processor sees a sequence by itself */
#define NO_FINAL -1       /* as in index/arrays.py, and so are these */
#define TERMINATED 1
#define TRUNCATED 2

/* Buffers that a call holds, released together. */
typedef struct {
    Py_buffer *views;
    Py_ssize_t used, room;
} Held;

static int hold(Held *held, Py_ssize_t room)
{
    held->used = 0;
    held->room = room;
    held->views = PyMem_Calloc((size_t)room, sizeof(Py_buffer));
    return held->views == NULL ? PyErr_NoMemory(), -1 : 0;
}

static PyObject *let_go(Held *held, PyObject *result)
{
    for (Py_ssize_t each = 0; each < held->used; each++) PyBuffer_Release(&held->views[each]);
    PyMem_Free(held->views);
    return result;
}

/* Set an error; return -1. */
static int fail(PyObject *kind, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    PyErr_FormatV(kind, format, values);
    va_end(values);
    return -1;
}

/* Hold an array; NULL with an error set if it is not contiguous, or not writable where that is wanted. */
static Py_buffer *any_array(Held *held, PyObject *object, int written)
{
    if (held->used >= held->room) return fail(PyExc_SystemError, "more arrays than there is room for"), NULL;
    Py_buffer *view = &held->views[held->used];
    int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (written ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, view, flags) < 0) return NULL;
    held->used++;
    return view;
}

/* Hold an array of one of `kinds` of the struct module, of `size` bytes each; `*count` of them, -1 for any number. */
static void *array(Held *held, PyObject *object, const char *name, const char *kinds, Py_ssize_t size, Py_ssize_t *count,
      int written)
{
    Py_buffer *view = any_array(held, object, written);
    if (view == NULL) return NULL;
    const char *format = view->format == NULL ? "B" : view->format;
    if (format[0] == '\0' || format[1] != '\0' || strchr(kinds, format[0]) == NULL || view->itemsize != size)
        return fail(PyExc_TypeError, "%s: wanted items of %zd bytes of a kind in '%s', got %zd of '%s'", name, size,
                    kinds, view->itemsize, format), NULL;
    if ((uintptr_t)view->buf % (uintptr_t)size != 0)
        return fail(PyExc_ValueError, "%s: wanted an aligned array", name), NULL;
    Py_ssize_t got = view->len / size;
    if (*count >= 0 && got != *count)
        return fail(PyExc_ValueError, "%s: wanted %zd items, got %zd", name, *count, got), NULL;
    *count = got;
    return view->buf;
}

static int64_t *ints(Held *held, PyObject *object, const char *name, Py_ssize_t *count, int written)
{
    return array(held, object, name, "lq", 8, count, written);
}

static double *doubles(Held *held, PyObject *object, const char *name, Py_ssize_t *count, int written)
{
    return array(held, object, name, "d", 8, count, written);
}

static int arguments(Py_ssize_t got, Py_ssize_t wanted)
{
    if (got != wanted) return fail(PyExc_TypeError, "wanted %zd arguments, got %zd", wanted, got);
    return 0;
}

/* Return an integer of at least `least`; -1 with an error set. */
static int64_t number(PyObject *object, const char *name, int64_t least)
{
    long long value = PyLong_AsLongLong(object);
    if (value == -1 && PyErr_Occurred()) return -1;
    if (value < least || value > INT64_MAX / 4)
        return fail(PyExc_ValueError, "%s: wanted an integer of at least %lld, got %lld", name, (long long)least,
                    value);
    return (int64_t)value;
}

/* Ask for bytes that are read soon. The second cache has room for all of a small batch, and takes more at once. */
static void fetch(const void *from, size_t bytes)
{
#if defined(__GNUC__)
    for (size_t at = 0; at < bytes && at < FETCHED; at += LINE) __builtin_prefetch((const char *)from + at, 0, 2);
#else
    (void)from;
    (void)bytes;
#endif
}

/* --- which proposed steps are anchors ------------------------------------------------------------------------ */

PyDoc_STRVAR(choose_doc, "choose(steps, streams, tail, head, capacity, length, episode_of_slot, settled, ended, episodes, ids, kinds)\n--\n\n"
"Return how many steps are anchors: `length` settled steps of their episode begin with them.\n\n"
"With None for `kinds`, `steps` are ids of live steps, and `streams` says of which streams, None of the only one.\n"
"Episodes and ids of the first anchors are set, as many as there is room for. Twin of `Inside.accept`.\n\n"
"Else `steps` are slots of the only stream. Episode and id of each are set, and its kind: 1 it is an anchor; 0 it may\n"
"become one; -1 it never can; -2 it is not live. Twin of `StepWeights.propose`.");

static PyObject *choose(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    int64_t size[4] = {0};
    for (int each = 0; nargs == 12 && each < 4; each++) {
        if ((size[each] = number(args[each + 2], "tail, head, capacity, length", each > 1)) < 0) return NULL;
    }
    int64_t tail = size[0], head = size[1], capacity = size[2], length = size[3];
    Held held;
    if (arguments(nargs, 12) < 0 || hold(&held, 8) < 0) return NULL;
    Py_ssize_t count = -1, slots = -1, entries = -1, room = -1, good = 0;
    int64_t *stream = NULL, *settled = NULL, *episodes = NULL, *ids = NULL, *steps = ints(&held, args[0], "steps", &count, 0);
    int32_t *episode_of = NULL;
    int8_t *ended = NULL, *kinds = NULL;
    int by_slot = args[11] != Py_None;
    if (steps == NULL || (args[1] != Py_None && (stream = ints(&held, args[1], "streams", &count, 0)) == NULL)
        || (episode_of = array(&held, args[6], "episode_of_slot", "i", 4, &slots, 0)) == NULL
        || (settled = ints(&held, args[7], "settled", &entries, 0)) == NULL
        || (ended = array(&held, args[8], "ended", "b", 1, &entries, 0)) == NULL
        || (episodes = ints(&held, args[9], "episodes", by_slot ? &count : &room, 1)) == NULL
        || (ids = ints(&held, args[10], "ids", by_slot ? &count : &room, 1)) == NULL
        || (by_slot && (kinds = array(&held, args[11], "kinds", "b", 1, &count, 1)) == NULL))
        return let_go(&held, NULL);
    int64_t *found = PyMem_Malloc((size_t)(count + 1) * sizeof(int64_t)), lanes = (int64_t)slots / capacity;
    if (found == NULL) return let_go(&held, PyErr_NoMemory());
    for (Py_ssize_t each = 0; good == 0 && each < count; each++) {
        int64_t step = steps[each], lane = stream == NULL ? 0 : stream[each];
        if (step < 0 || step > (by_slot ? capacity - 1 : INT64_MAX / 4) || lane < 0 || lane >= lanes) {
            good = -1;
        } else {
            found[each] = step % capacity + lane * capacity;
            fetch(&episode_of[found[each]], 1);
        }
    }
    for (Py_ssize_t each = 0; good == 0 && each < count; each++) {
        found[each] = episode_of[found[each]];
        if (found[each] < 0 || found[each] >= entries) good = -1;
    }
    if (good < 0) PyErr_SetString(PyExc_IndexError, "steps: wanted those that the index has, got others");
    for (Py_ssize_t each = 0; good >= 0 && each < count; each++) {
        int64_t id = steps[each], episode = found[each];
        if (by_slot) id = tail + ((id - tail) % capacity + capacity) % capacity;
        int is_live = !by_slot || id < head, is_good = is_live && id + (length - 1) < settled[episode];
        Py_ssize_t place = by_slot ? each : good;
        if (by_slot) kinds[each] = (int8_t)(is_good ? 1 : !is_live ? -2 : ended[episode] != 0 ? -1 : 0);
        if (by_slot || (is_good && good < room)) {
            episodes[place] = episode;
            ids[place] = id;
        }
        good += is_good;
    }
    PyMem_Free(found);
    return let_go(&held, good < 0 ? NULL : PyLong_FromSsize_t(good));
}

/* --- filling a batch ------------------------------------------------------------------------------------------ */

/* One column that is copied. */
typedef struct {
    const char *from, *finals;
    char *to;
    size_t row;
    Py_ssize_t shown, final_rows;  /* rows of a window, one more of an observation; and of all final observations */
} Column;

/* Whole windows inside one episode each: their addresses, what is known of episodes, and the arrays of a batch. */
typedef struct {
    Py_ssize_t count, length, burn_in, entries;
    int64_t capacity, slots;
    const int64_t *stream, *episode, *start, *anchor, *first, *stop, *final_slot;
    const int8_t *ended;
    char *flags[6];                                            /* in the order of `BESIDE` */
    int64_t *addresses[3], *slot;                              /* `slot` is where each window begins */
    float *weight;
} Windows;

enum { IS_TERMINATED, IS_TRUNCATED, IS_FIRST, MASK, OBS_MASK, TRAIN_MASK };
static const char *const BESIDE[] = {"terminated", "truncated", "is_first", "mask", "obs_mask", "train_mask"};

static Py_ssize_t flags_of(const Windows *w, int which)
{
    return w->count * (w->length + (which == IS_FIRST || which == OBS_MASK));
}

/* Hold the column `name` of three dicts. */
static int column(Held *held, Column *it, PyObject *read, PyObject *columns, PyObject *finals, PyObject *arrays, Windows *w)
{
    PyObject *name = PyTuple_GetItem(read, 0), *is_obs = PyTuple_GetItem(read, 1);
    int obs = is_obs == NULL ? -1 : PyObject_IsTrue(is_obs);
    PyObject *from = obs < 0 ? NULL : PyDict_GetItemWithError(columns, name);
    PyObject *to = from == NULL ? NULL : PyDict_GetItemWithError(arrays, name);
    PyObject *final = to == NULL || obs == 0 ? NULL : PyDict_GetItemWithError(finals, name);
    if (to == NULL || (obs == 1 && final == NULL)) {
        if (!PyErr_Occurred()) PyErr_Format(PyExc_KeyError, "no column %R", name);
        return -1;
    }
    Py_buffer *source = any_array(held, from, 0), *target = source == NULL ? NULL : any_array(held, to, 1);
    if (target == NULL) return -1;
    if (source->ndim < 1 || source->shape[0] < w->slots || source->shape[0] == 0)
        return fail(PyExc_ValueError, "%R: wanted a column of at least %lld rows", name, (long long)w->slots);
    it->from = source->buf;
    it->to = target->buf;
    it->row = (size_t)(source->len / source->shape[0]);
    it->shown = w->length + obs;
    it->finals = NULL;
    it->final_rows = 0;
    if (obs) {
        Py_buffer *last = any_array(held, final, 0);
        if (last == NULL) return -1;
        it->final_rows = last->ndim < 1 ? 0 : last->shape[0];
        it->finals = last->buf;
        if (it->final_rows > 0 && (size_t)(last->len / it->final_rows) != it->row)
            return fail(PyExc_ValueError, "%R: wanted final observations of %zd bytes", name, (Py_ssize_t)it->row);
    }
    Py_ssize_t row = (Py_ssize_t)it->row, rows = row == 0 ? 0 : target->len / row;
    if (row > 0 && (target->len % row != 0 || rows / it->shown != w->count || rows % it->shown != 0))
        return fail(PyExc_ValueError, "%R: wanted an array of %zd windows of %zd rows of %zd bytes, got %zd bytes",
                    name, w->count, it->shown, row, target->len);
    return 0;
}

/* Whether every window lies where there is something to read; sets where it begins. */
static int windows_fit(Windows *w, const Column *columns, Py_ssize_t count)
{
    int64_t finals = INT64_MAX;
    for (Py_ssize_t each = 0; each < count; each++) {
        if (columns[each].finals != NULL && columns[each].final_rows < finals) finals = columns[each].final_rows;
    }
    for (Py_ssize_t each = 0; each < w->count; each++) {
        int64_t episode = w->episode[each], start = w->start[each], stream = w->stream[each];
        if (episode < 0 || episode >= w->entries || start < 0 || start > INT64_MAX / 4 || stream < 0
            || stream >= w->slots / w->capacity)
            return 0;
        int ends = start + w->length == w->stop[episode];
        int64_t last = w->final_slot[episode];
        if (w->length + !ends > w->capacity || (ends && last != NO_FINAL && (last < 0 || last >= finals))) return 0;
        w->slot[each] = start % w->capacity + stream * w->capacity;
    }
    return 1;
}

/* Copy one window of a column. */
static void copy_window(const Windows *w, const Column *it, Py_ssize_t each)
{
    size_t row = it->row;
    int64_t episode = w->episode[each], slot = w->slot[each], left = (w->stream[each] + 1) * w->capacity - slot;
    int ends = it->shown > w->length && w->start[each] + w->length == w->stop[episode];
    int64_t rows = it->shown - ends, straight = rows < left ? rows : left;
    char *to = it->to + (size_t)(each * it->shown) * row;
    memcpy(to, it->from + (size_t)slot * row, (size_t)straight * row);
    if (straight < rows) {  /* it goes on at the beginning of the stream's slots */
        memcpy(to + (size_t)straight * row, it->from + (size_t)(slot + left - w->capacity) * row,
               (size_t)(rows - straight) * row);
    }
    if (ends) {  /* the successor lies beside the ring; where none is known, the last observation stands for it */
        int64_t last = w->final_slot[episode];
        char *behind = to + (size_t)rows * row;
        memcpy(behind, last == NO_FINAL ? behind - row : it->finals + (size_t)last * row, row);
    }
}

static void copy_columns(const Windows *w, const Column *columns, Py_ssize_t count)
{
    for (Py_ssize_t each = -AHEAD; each < w->count; each++) {
        Py_ssize_t ahead = each + AHEAD;
        for (const Column *it = columns; ahead < w->count && it < columns + count; it++) {
            fetch(it->from + (size_t)w->slot[ahead] * it->row, (size_t)it->shown * it->row);
        }
        for (const Column *it = columns; each >= 0 && it < columns + count; it++) copy_window(w, it, each);
    }
}

static void set_flags(const Windows *w)
{
    const int64_t *known[] = {w->stream, w->start, w->anchor};
    for (int each = 0; each < 6; each++) memset(w->flags[each], each >= MASK, (size_t)flags_of(w, each));
    for (int each = 0; each < 3; each++) memcpy(w->addresses[each], known[each], (size_t)w->count * sizeof(int64_t));
    for (Py_ssize_t each = 0; each < w->count; each++) {
        int64_t episode = w->episode[each], last = (each + 1) * w->length - 1;
        w->weight[each] = 1.0f;
        w->flags[IS_FIRST][each * (w->length + 1)] = w->start[each] == w->first[episode];
        memset(w->flags[TRAIN_MASK] + each * w->length, 0, (size_t)w->burn_in);
        if (w->start[each] + w->length == w->stop[episode]) {
            w->flags[IS_TERMINATED][last] = (w->ended[episode] & TERMINATED) != 0;
            w->flags[IS_TRUNCATED][last] = (w->ended[episode] & TRUNCATED) != 0;
            w->flags[OBS_MASK][last + each + 1] = w->final_slot[episode] != NO_FINAL;
        }
    }
}

/* Hold an array of a batch: `size` bytes an item, of one of `kinds`. */
static void *named(Held *held, PyObject *arrays, const char *name, const char *kinds, Py_ssize_t size, Py_ssize_t count)
{
    PyObject *object = PyDict_GetItemString(arrays, name);
    if (object == NULL) return fail(PyExc_KeyError, "no array '%s'", name), NULL;
    return array(held, object, name, kinds, size, &count, 1);
}

/* Hold what `fill` reads and writes beside the columns. */
static int windows(Held *held, Windows *w, PyObject *table, PyObject *addresses, PyObject *arrays)
{
    static const char *const names[] = {"stream", "start", "anchor", "episode", "start", "stop", "final_slot"};
    const int64_t **known[] = {&w->stream, &w->start, &w->anchor, &w->episode, &w->first, &w->stop, &w->final_slot};
    static const int places[] = {0, 2, 3, 1, 0, 1, 2};
    if (!PyTuple_Check(table) || PyTuple_Size(table) != 4 || !PyTuple_Check(addresses) || PyTuple_Size(addresses) != 4)
        return fail(PyExc_TypeError, "table, addresses: wanted tuples of four arrays");
    w->count = w->entries = -1;
    for (int each = 0; each < 7; each++) {
        PyObject *object = PyTuple_GetItem(each < 4 ? addresses : table, places[each]);
        *known[each] = ints(held, object, names[each], each < 4 ? &w->count : &w->entries, 0);
        if (*known[each] == NULL) return -1;
    }
    w->ended = array(held, PyTuple_GetItem(table, 3), "ended", "b", 1, &w->entries, 0);
    if (w->ended == NULL) return -1;
    if (w->length > PY_SSIZE_T_MAX / 16 / (w->count + 1))
        return fail(PyExc_ValueError, "length: wanted what memory can hold");
    for (int each = 0; each < 6; each++) {
        if ((w->flags[each] = named(held, arrays, BESIDE[each], "?", 1, flags_of(w, each))) == NULL) return -1;
    }
    for (int each = 0; each < 3; each++) {
        if ((w->addresses[each] = named(held, arrays, names[each], "lq", 8, w->count)) == NULL) return -1;
    }
    return (w->weight = named(held, arrays, "weight", "f", 4, w->count)) == NULL ? -1 : 0;
}

PyDoc_STRVAR(fill_doc, "fill(columns, finals, arrays, reads, table, addresses, length, burn_in, slots, capacity)\n--\n\n"
"Fill the arrays of a batch of whole windows, each inside one episode. All weights are 1.\n\n"
"`columns` and `finals` are dicts of what is stored, rows first; `arrays` those of the batch. `reads` lists name and\n"
"whether it is an observation. `table` is (start, stop, final_slot, ended) by episode, `addresses` (stream, episode,\n"
"start, anchor) by window. `slots` is the number of rows of a column. Twin of `Gatherer._sequences`.");

static PyObject *fill(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (arguments(nargs, 10) < 0) return NULL;
    for (int each = 0; each < 3; each++) {
        if (!PyDict_Check(args[each])) return fail(PyExc_TypeError, "columns, finals, arrays: wanted dicts"), NULL;
    }
    if (!PyList_Check(args[3])) return fail(PyExc_TypeError, "reads: wanted a list"), NULL;
    Windows w = {0};
    int64_t length = number(args[6], "length", 1), burn_in = length < 0 ? -1 : number(args[7], "burn_in", 0);
    w.slots = burn_in < 0 ? -1 : number(args[8], "slots", 1);
    w.capacity = w.slots < 0 ? -1 : number(args[9], "capacity", 1);
    if (w.capacity < 0) return NULL;
    w.length = (Py_ssize_t)length;
    w.burn_in = (Py_ssize_t)burn_in;
    if (burn_in > length) return fail(PyExc_ValueError, "burn_in: wanted at most length"), NULL;
    Py_ssize_t count = PyList_Size(args[3]), total = 0;
    Held held;
    if (hold(&held, 3 * count + 18) < 0) return NULL;
    int failed = windows(&held, &w, args[4], args[5], args[2]);
    Column *columns = failed ? NULL : PyMem_Calloc((size_t)count + 1, sizeof(Column));
    w.slot = failed ? NULL : PyMem_Malloc((size_t)(w.count + 1) * sizeof(int64_t));
    if (!failed && (columns == NULL || w.slot == NULL)) failed = PyErr_NoMemory() == NULL;
    for (Py_ssize_t each = 0; !failed && each < count; each++) {
        PyObject *read = PyList_GetItem(args[3], each);
        if (read == NULL || !PyTuple_Check(read) || PyTuple_Size(read) != 2) {
            failed = fail(PyExc_TypeError, "reads: wanted pairs");
        } else {
            failed = column(&held, &columns[each], read, args[0], args[1], args[2], &w);
            if (!failed) total += (Py_ssize_t)columns[each].row * columns[each].shown * w.count;
        }
    }
    if (!failed && !windows_fit(&w, columns, count))
        failed = fail(PyExc_IndexError, "addresses: wanted windows of steps that are stored, got others");
    if (!failed) {
        PyThreadState *state = total >= LARGE ? PyEval_SaveThread() : NULL;
        copy_columns(&w, columns, count);
        set_flags(&w);
        if (state != NULL) PyEval_RestoreThread(state);
    }
    PyMem_Free(columns);
    PyMem_Free(w.slot);
    return let_go(&held, failed ? NULL : Py_NewRef(Py_None));
}

/* --- sum trees -------------------------------------------------------------------------------------------------- */

/* A tree of wide nodes: leaves first, the root last. */
typedef struct {
    Py_ssize_t count;               /* levels */
    double *level[LEVELS];
    Py_ssize_t size[LEVELS];        /* children on a level */
    double *root_sums;
    int barred;                     /* some leaves are negative, and count as zero */
} Tree;

/* Hold a tree whose levels fit each other. */
static int tree(Held *held, Tree *it, PyObject *levels, PyObject *root_sums, PyObject *barred, int written)
{
    it->count = PyList_Check(levels) ? PyList_Size(levels) : 0;
    it->barred = PyObject_IsTrue(barred);
    if (it->count < 1 || it->count > LEVELS || it->barred < 0)
        return fail(PyExc_ValueError, "levels: wanted a list of 1 to %d arrays", LEVELS);
    for (Py_ssize_t each = 0; each < it->count; each++) {
        it->size[each] = -1;
        it->level[each] = doubles(held, PyList_GetItem(levels, each), "levels", &it->size[each], written && each > 0);
        if (it->level[each] == NULL) return -1;
        int root = each == it->count - 1;
        if (it->size[each] < 1 || (!root && it->size[each] % FAN != 0) || (each > 0 && it->size[each] < it->size[each - 1] / FAN))
            return fail(PyExc_ValueError, "levels: wanted nodes of %d children, and a parent for each node",
                        FAN);
    }
    Py_ssize_t sums = it->size[it->count - 1];
    it->root_sums = doubles(held, root_sums, "root_sums", &sums, written);
    return it->root_sums == NULL ? -1 : 0;
}

/* Set what the children of a node add to it. */
static void read_node(const Tree *it, Py_ssize_t level, int64_t node, double *children)
{
    memcpy(children, it->level[level] + node * FAN, FAN * sizeof(double));
    for (int at = 0; level == 0 && it->barred && at < FAN; at++) children[at] = children[at] > 0.0 ? children[at] : 0.0;
}

/* Set the places that targets fall into, and return how many of these have no weight. */
static Py_ssize_t descend(const Tree *it, const double *targets, double *left, int64_t *places, Py_ssize_t count)
{
    Py_ssize_t root = it->count - 1, missed = 0;
    for (Py_ssize_t each = 0; each < count; each++) {
        Py_ssize_t low = 0, high = it->size[root];  /* the first child whose running sum is above the target */
        while (low < high) {
            Py_ssize_t middle = low + (high - low) / 2;
            if (it->root_sums[middle] > targets[each]) high = middle;
            else low = middle + 1;
        }
        places[each] = low < it->size[root] ? low : it->size[root] - 1;
        left[each] = targets[each] - it->root_sums[places[each]] + it->level[root][places[each]];
    }
    for (Py_ssize_t level = root - 1; level >= 0; level--) {
        Py_ssize_t nodes = it->size[level] / FAN;  /* rounding may have led beyond them */
        for (Py_ssize_t each = 0; each < count; each++) {
            if (places[each] >= nodes) places[each] = nodes - 1;
            fetch(it->level[level] + places[each] * FAN, FAN * sizeof(double));
        }
        for (Py_ssize_t each = 0; each < count; each++) {
            double children[FAN], running[FAN];
            read_node(it, level, places[each], children);
            Py_ssize_t child = (running[0] = children[0]) <= left[each];
            for (int at = 1; at < FAN; at++) child += (running[at] = running[at - 1] + children[at]) <= left[each];
            child = child < FAN ? child : FAN - 1;
            left[each] = left[each] - running[child] + children[child];
            places[each] = places[each] * FAN + child;
        }
    }
    for (Py_ssize_t each = 0; each < count; each++) missed += !(it->level[0][places[each]] > 0.0);
    return missed;
}

/* Compute every sum that one of these leaves is part of. */
static void ascend(const Tree *it, int64_t *nodes, Py_ssize_t count)
{
    for (Py_ssize_t level = 0; level < it->count - 1; level++) {
        for (Py_ssize_t each = 0; each < count; each++) {
            nodes[each] /= FAN;
            fetch(it->level[level] + nodes[each] * FAN, FAN * sizeof(double));
        }
        for (Py_ssize_t each = 0; each < count; each++) {
            double children[FAN], pair[FAN / 2];  /* NumPy adds up 16 numbers in this order */
            read_node(it, level, nodes[each], children);
            for (int at = 0; at < FAN / 2; at++) pair[at] = children[at] + children[at + FAN / 2];
            it->level[level + 1][nodes[each]] =
                ((pair[0] + pair[1]) + (pair[2] + pair[3])) + ((pair[4] + pair[5]) + (pair[6] + pair[7]));
        }
    }
    Py_ssize_t root = it->count - 1;
    double sum = 0.0;
    for (Py_ssize_t each = 0; each < it->size[root]; each++) {
        double child = it->level[root][each];
        if (root == 0 && it->barred && !(child > 0.0)) child = 0.0;
        it->root_sums[each] = sum = each == 0 ? child : sum + child;
    }
}

PyDoc_STRVAR(walk_doc, "walk(levels, root_sums, barred, targets, places)\n--\n\n"
"Down: set the places that targets fall into; return how many of these have no weight. Twin of `SumTree.find`.\n\n"
"Up, with None for targets: compute every sum that one of these places is part of; return 0. Twin of\n"
"`SumTree._add_up`, whose order of additions it keeps.");

static PyObject *walk(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    Held held;
    if (arguments(nargs, 5) < 0 || hold(&held, LEVELS + 3) < 0) return NULL;
    Tree it;
    int up = args[3] == Py_None;
    if (tree(&held, &it, args[0], args[1], args[2], up) < 0) return let_go(&held, NULL);
    Py_ssize_t count = -1, result = 0;
    double *targets = up ? NULL : doubles(&held, args[3], "targets", &count, 0);
    int64_t *places = up || targets != NULL ? ints(&held, args[4], "places", &count, !up) : NULL;
    void *work = places == NULL ? NULL : PyMem_Malloc((size_t)(count + 1) * sizeof(int64_t));
    if (work == NULL) return let_go(&held, places == NULL ? NULL : PyErr_NoMemory());
    for (Py_ssize_t each = 0; up && result == 0 && each < count; each++) {
        if (places[each] < 0 || places[each] >= it.size[0])
            result = fail(PyExc_IndexError, "places: wanted leaves of the tree, got others");
    }
    if (!up) result = descend(&it, targets, work, places, count);
    else if (result == 0) ascend(&it, memcpy(work, places, (size_t)count * sizeof(int64_t)), count);
    PyMem_Free(work);
    return let_go(&held, result < 0 ? NULL : PyLong_FromSsize_t(result));
}

/* --- adding ----------------------------------------------------------------------------------------------------- */

/* The arrays of a buffer, held as long as this lives, and the kinds of values that are taken at first sight. */
typedef struct {
    Held held;
    Py_ssize_t streams, slots, entries;
    int64_t capacity, *head, *tail, *open, *front_stop, *stop, *settled;
    int32_t *episode_of;
    double *total;
    float *reward;
    const Py_buffer *column[3];                                /* obs, action, reward */
    PyObject *kinds;
} Place;

static void forget(PyObject *capsule)
{
    Place *it = PyCapsule_GetPointer(capsule, "place");
    Py_XDECREF(let_go(&it->held, it->kinds));
    PyMem_Free(it);
}

PyDoc_STRVAR(place_doc, "place(obs, action, reward, head, tail, open_episode, front_stop, episode_of_slot, stop, settled, total, capacity, kinds)\n--\n\n"
"Return what `put` needs. `kinds` is (ndarray, type of an action that is a number, types of rewards, numpy.False_).");

static PyObject *place(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    int64_t capacity = arguments(nargs, 13) < 0 ? -1 : number(args[11], "capacity", 1);
    if (capacity > 0 && (!PyTuple_Check(args[12]) || PyTuple_Size(args[12]) != 4)) return fail(PyExc_TypeError, "kinds: wanted four"), NULL;
    Place *it = capacity < 0 ? NULL : PyMem_Calloc(1, sizeof(Place));
    if (it == NULL || hold(&it->held, 12) < 0) return PyMem_Free(it), capacity < 0 ? NULL : PyErr_NoMemory();
    PyObject *capsule = PyCapsule_New(it, "place", forget);
    if (capsule == NULL) return let_go(&it->held, NULL), PyMem_Free(it), NULL;
    it->kinds = Py_NewRef(args[12]);
    it->capacity = capacity;
    it->streams = it->entries = -1;
    int failed = (it->head = ints(&it->held, args[3], "head", &it->streams, 1)) == NULL
        || (it->tail = ints(&it->held, args[4], "tail", &it->streams, 1)) == NULL
        || (it->open = ints(&it->held, args[5], "open_episode", &it->streams, 0)) == NULL
        || (it->front_stop = ints(&it->held, args[6], "front_stop", &it->streams, 0)) == NULL
        || (it->slots = it->streams > INT64_MAX / 4 / capacity ? 0 : it->streams * (Py_ssize_t)capacity) < 0
        || (it->reward = array(&it->held, args[2], "reward", "f", 4, &it->slots, 1)) == NULL
        || (it->episode_of = array(&it->held, args[7], "episode_of_slot", "i", 4, &it->slots, 1)) == NULL
        || (it->stop = ints(&it->held, args[8], "stop", &it->entries, 1)) == NULL
        || (it->settled = ints(&it->held, args[9], "settled", &it->entries, 1)) == NULL
        || (it->total = doubles(&it->held, args[10], "total", &it->entries, 1)) == NULL;
    for (int each = 0; !failed && each < 3; each++) {
        failed = (it->column[each] = any_array(&it->held, args[each], 1)) == NULL;
        if (!failed && (it->column[each]->ndim < 1 || it->column[each]->shape[0] != it->slots || it->slots == 0))
            failed = fail(PyExc_ValueError, "obs, action, reward: wanted %zd rows of each", it->slots);
    }
    return failed ? Py_DECREF(capsule), NULL : capsule;
}

/* Return the bytes of a row like those of a column, or of one for each of `lanes`; NULL for what is not taken. */
static const char *rows(Held *held, const Place *it, PyObject *object, int column, const char *formats, Py_ssize_t lanes)
{
    const Py_buffer *like = it->column[column];
    Py_buffer *view = &held->views[held->used];
    PyObject *kind = (PyObject *)Py_TYPE(object);
    int lead = lanes > 0, is_scalar = !lead && column == 1 && kind == PyTuple_GetItem(it->kinds, 1);
    if ((kind != PyTuple_GetItem(it->kinds, 0) && !is_scalar) || PyObject_GetBuffer(object, view, PyBUF_STRIDES | PyBUF_FORMAT) < 0) return NULL;
    held->used++;
    int fits = view->ndim == like->ndim - 1 + lead && (!lead || view->shape[0] == lanes) && view->format[0] != '\0' && view->format[1] == '\0'
        && strchr(formats, view->format[0]) != NULL && PyBuffer_IsContiguous(view, 'C') && (uintptr_t)view->buf % (uintptr_t)view->itemsize == 0;
    for (int axis = 1; fits && axis < like->ndim; axis++) fits = view->shape[axis - 1 + lead] == like->shape[axis];
    return fits ? view->buf : NULL;
}

/* Set the bytes of a whole number that a column of such takes; return them, NULL for anything else. */
static const char *whole(PyObject *object, const Py_buffer *like, char *bytes)
{
    if (like->ndim != 1 || strchr("bBhHiIlLqQ", like->format[0]) == NULL) return NULL;
    int overflow, is_signed = like->format[0] >= 'a', bits = (int)(8 * like->itemsize) - is_signed;
    long long value = PyLong_AsLongLongAndOverflow(object, &overflow), high = bits < 63 ? value >> bits : 0;
    if (overflow != 0 || (high != 0 && !(is_signed && high == -1)) || (!is_signed && value < 0)) return NULL;
    for (int at = 0; at < like->itemsize; at++) bytes[PY_LITTLE_ENDIAN ? at : like->itemsize - 1 - at] = (char)(value >> 8 * at & 255);
    return bytes;
}

PyDoc_STRVAR(put_doc, "put(place, obs, action, reward, terminated, truncated, stream, final_obs, each_stream)\n--\n\n"
"Store a step that goes on with its episode, or one of each stream; return whether it fits at first sight. If not,\n"
"nothing has changed. Twin of `Quick.add` and `QuickLanes.add`.");

static PyObject *put(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    Place *it = arguments(nargs, 9) < 0 ? NULL : PyCapsule_GetPointer(args[0], "place");
    if (it == NULL) return NULL;
    Py_buffer views[6];
    Held held = {views, 0, 6};
    char bytes[8];
    double single = 0.0, reward = 0.0;
    const char *from[] = {NULL, NULL}, *rewards = (const char *)&single, *flags, *format = it->column[1]->format;
    Py_ssize_t lanes = args[8] == Py_True ? it->streams : 0, count = lanes > 0 ? lanes : 1, first = 0;
    int fits = it->column[0]->len / it->slots * count < LARGE, is_wide = 1;  /* the rest lets other threads go on */
    for (int each = 4; fits && each < 6; each++) {
        if (lanes == 0) fits = args[each] == Py_False || args[each] == PyTuple_GetItem(it->kinds, 3);
        else fits = (flags = rows(&held, it, args[each], 2, "?", lanes)) != NULL;
        for (Py_ssize_t lane = 0; fits && lane < lanes; lane++) fits = flags[lane] == 0;
    }
    if (fits && lanes > 0) {
        fits = (rewards = rows(&held, it, args[3], 2, "fd", lanes)) != NULL
            && (args[7] == Py_None || rows(&held, it, args[7], 0, it->column[0]->format, lanes) != NULL);
        is_wide = fits && views[2].itemsize == 8;
    } else if (fits) {
        fits = PyLong_CheckExact(args[6]) && (first = PyLong_AsSsize_t(args[6])) >= 0 && first < it->streams
            && PySet_Contains(PyTuple_GetItem(it->kinds, 2), (PyObject *)Py_TYPE(args[3])) == 1
            && ((single = PyFloat_AsDouble(args[3])) != -1.0 || !PyErr_Occurred());
    }
    fits = fits && (from[0] = rows(&held, it, args[1], 0, it->column[0]->format, lanes)) != NULL
        && (from[1] = lanes == 0 && PyLong_CheckExact(args[2]) ? whole(args[2], it->column[1], bytes)
                                                               : rows(&held, it, args[2], 1, format, lanes)) != NULL;
    for (Py_ssize_t turn = 0; fits && turn < 2 * count; turn++) {  /* all are looked at before one is stored */
        Py_ssize_t lane = turn % count, stream = first + lane;
        int64_t head = it->head[stream], tail = it->tail[stream], episode = it->open[stream];
        reward = is_wide ? ((const double *)(const void *)rewards)[lane] : (double)((const float *)(const void *)rewards)[lane];
        fits = reward >= -FLT_MAX && reward <= FLT_MAX && tail >= 0 && tail <= head && head < INT64_MAX / 4 && episode >= 0
            && episode < it->entries && (head - tail < it->capacity || tail + 1 < it->front_stop[stream]);
        if (!fits || turn < count) continue;
        int64_t slot = stream * it->capacity + head % it->capacity;
        for (int column = 0; column < 2; column++) {
            size_t row = (size_t)(it->column[column]->len / it->slots);
            memmove((char *)it->column[column]->buf + (size_t)slot * row, from[column] + (size_t)lane * row, row);
        }
        it->reward[slot] = (float)reward;
        it->episode_of[slot] = (int32_t)episode;
        it->total[episode] += (float)reward;
        it->settled[episode] = head;
        it->tail[stream] += head - tail == it->capacity;
        it->stop[episode] = it->head[stream] = head + 1;
    }
    while (held.used > 0) PyBuffer_Release(&views[--held.used]);
    if (!fits) PyErr_Clear();
    return PyBool_FromLong(fits);
}

static PyMethodDef methods[] = {
    {"choose", (PyCFunction)(void (*)(void))choose, METH_FASTCALL, choose_doc},
    {"walk", (PyCFunction)(void (*)(void))walk, METH_FASTCALL, walk_doc},
    {"fill", (PyCFunction)(void (*)(void))fill, METH_FASTCALL, fill_doc},
    {"place", (PyCFunction)(void (*)(void))place, METH_FASTCALL, place_doc},
    {"put", (PyCFunction)(void (*)(void))put, METH_FASTCALL, put_doc},
    {NULL, NULL, 0, NULL},
};

static int execute(PyObject *module)
{
    return PyModule_AddIntConstant(module, "TWINS", 3);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)(intptr_t)execute},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "The twins in C of functions that stand beside it.", 0, methods, slots, NULL, NULL,
    NULL,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
