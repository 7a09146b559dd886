/* What drawing small windows costs most, in C. Each function is the twin of NumPy code that stays beside it.

   Arguments are checked before anything is written: a call that raises has changed nothing. Integers are int64
   unless it says otherwise, and all arrays are C-contiguous. The module needs Python's stable ABI of 3.11 alone. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#define FAN 16            /* children of a node of a sum tree, as in samplers/sumtree.py */
#define LEVELS 16         /* more than a tree of 2**62 leaves has */
#define LARGE (1 << 20)   /* bytes of a copy that other threads need not wait for */
#define AHEAD 8           /* windows, or nodes, that are fetched into the cache before they are read */
#define LINE 64           /* bytes of a cache line */
#define FETCHED (1 << 16) /* bytes of a window; behind them the processor sees a sequence by itself */
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

/* An array among several: its name, kinds and bytes of its items as for `array`, how many, and what shall point to it. */
typedef struct {
    const char *name, *kinds;
    Py_ssize_t size, *count;
    void *found;
    int written;
} Wanted;

static int arrays(Held *held, PyObject *const *objects, const Wanted *wanted, Py_ssize_t count)
{
    for (Py_ssize_t each = 0; each < count; each++) {
        const Wanted *it = &wanted[each];
        void *data = array(held, objects[each], it->name, it->kinds, it->size, it->count, it->written);
        if (data == NULL) return -1;
        memcpy(it->found, &data, sizeof data);
    }
    return 0;
}

/* Hold the arrays of a tuple, in this order, or those of a dict that have these names. */
static int members(Held *held, PyObject *from, const Wanted *wanted, Py_ssize_t count)
{
    PyObject *objects[10];
    int named = PyDict_Check(from);
    if (!named && (!PyTuple_Check(from) || PyTuple_Size(from) != count))
        return fail(PyExc_TypeError, "%s: wanted a tuple of %zd arrays that begins with it", wanted->name, count);
    for (Py_ssize_t each = 0; each < count; each++) {
        objects[each] = named ? PyDict_GetItemString(from, wanted[each].name) : PyTuple_GetItem(from, each);
        if (objects[each] == NULL) return fail(PyExc_KeyError, "no array '%s'", wanted[each].name);
    }
    return arrays(held, objects, wanted, count);
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

PyDoc_STRVAR(choose_doc, "choose(ids, streams, capacity, length, episode_of_slot, settled, episodes, chosen)\n--\n\n"
"Keep those of some live steps that `length` settled steps of their episode begin with; return how many these are.\n\n"
"The first of them, as many as there is room for, go into `episodes` and `chosen`. `streams` may be None for the\n"
"only one. Twin of `Inside.accept` and `try_then_count`.");

static PyObject *choose(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (arguments(nargs, 8) < 0) return NULL;
    int64_t capacity = number(args[2], "capacity", 1), length = capacity < 0 ? -1 : number(args[3], "length", 1);
    Held held;
    if (length < 0 || hold(&held, 6) < 0) return NULL;
    Py_ssize_t count = -1, slots = -1, entries = -1, room = -1, good = 0;
    int64_t *stream = NULL, *ids = ints(&held, args[0], "ids", &count, 0), *settled, *episodes, *chosen;
    int32_t *episode_of;
    const Wanted wanted[] = {
        {"episode_of_slot", "i", 4, &slots, &episode_of, 0}, {"settled", "lq", 8, &entries, &settled, 0},
        {"episodes", "lq", 8, &room, &episodes, 1}, {"chosen", "lq", 8, &room, &chosen, 1},
    };
    if (ids == NULL || (args[1] != Py_None && (stream = ints(&held, args[1], "streams", &count, 0)) == NULL)
        || arrays(&held, args + 4, wanted, 4) < 0)
        return let_go(&held, NULL);
    int64_t *found = PyMem_Malloc((size_t)(count + 1) * sizeof(int64_t)), lanes = (int64_t)slots / capacity;
    if (found == NULL) return let_go(&held, PyErr_NoMemory());
    for (Py_ssize_t each = 0; good == 0 && each < count; each++) {
        int64_t id = ids[each], lane = stream == NULL ? 0 : stream[each];
        if (id < 0 || id > INT64_MAX / 4 || lane < 0 || lane >= lanes) {
            good = -1;
        } else {
            found[each] = id % capacity + lane * capacity;
            fetch(&episode_of[found[each]], 1);
        }
    }
    for (Py_ssize_t each = 0; good == 0 && each < count; each++) {
        found[each] = episode_of[found[each]];
        if (found[each] < 0 || found[each] >= entries) good = -1;
    }
    if (good < 0) PyErr_SetString(PyExc_IndexError, "ids: wanted steps that the index has, got others");
    for (Py_ssize_t each = 0; good >= 0 && each < count; each++) {
        if (ids[each] + (length - 1) >= settled[found[each]]) continue;
        if (good < room) {
            episodes[good] = found[each];
            chosen[good] = ids[each];
        }
        good++;
    }
    PyMem_Free(found);
    return let_go(&held, good < 0 ? NULL : PyLong_FromSsize_t(good));
}

PyDoc_STRVAR(sift_doc, "sift(slots, tail, head, capacity, length, episode_of_slot, settled, ended, episodes, ids, good)\n--\n\n"
"Set episode and id of the steps in slots of the only stream, and which are anchors of `length` settled steps.\n\n"
"Return two lists of slots: of steps that are not live, and of those that can never be anchors. Twin of\n"
"`StepWeights.propose`.");

static PyObject *sift(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    int64_t size[4] = {0};
    for (int each = 0; nargs == 11 && each < 4; each++) {
        if ((size[each] = number(args[each + 1], "tail, head, capacity, length", each > 1)) < 0) return NULL;
    }
    int64_t tail = size[0], head = size[1], capacity = size[2], length = size[3];
    Held held;
    if (arguments(nargs, 11) < 0 || hold(&held, 7) < 0) return NULL;
    Py_ssize_t count = -1, places = (Py_ssize_t)capacity, entries = -1;
    int64_t *slots, *settled, *episodes, *ids;
    int32_t *episode_of;
    int8_t *ended;
    char *good;
    const Wanted wanted[] = {
        {"episode_of_slot", "i", 4, &places, &episode_of, 0}, {"settled", "lq", 8, &entries, &settled, 0},
        {"ended", "b", 1, &entries, &ended, 0}, {"episodes", "lq", 8, &count, &episodes, 1},
        {"ids", "lq", 8, &count, &ids, 1}, {"good", "?", 1, &count, &good, 1},
    };
    int failed = (slots = ints(&held, args[0], "slots", &count, 0)) == NULL || arrays(&held, args + 5, wanted, 6) < 0;
    for (Py_ssize_t each = 0; !failed && each < count; each++) {
        int64_t slot = slots[each];
        if (slot < 0 || slot >= capacity || episode_of[slot] < 0 || episode_of[slot] >= entries)
            failed = fail(PyExc_IndexError, "slots: wanted those of steps that the index has, got others");
    }
    PyObject *dead = failed ? NULL : PyList_New(0), *hopeless = dead == NULL ? NULL : PyList_New(0);
    failed = hopeless == NULL;
    for (Py_ssize_t each = 0; !failed && each < count; each++) {
        int64_t slot = slots[each], turn = (slot - tail) % capacity;
        int64_t episode = episodes[each] = episode_of[slot], id = tail + turn + (turn < 0 ? capacity : 0);
        ids[each] = id;
        good[each] = id < head && id + length - 1 < settled[episode];
        if (!good[each] && (id >= head || ended[episode] != 0)) {
            PyObject *place = PyLong_FromLongLong(slot);
            failed = place == NULL || PyList_Append(id >= head ? dead : hopeless, place) < 0;
            Py_XDECREF(place);
        }
    }
    PyObject *both = failed ? NULL : PyTuple_Pack(2, dead, hopeless);
    Py_XDECREF(dead);
    Py_XDECREF(hopeless);
    return let_go(&held, both);
}

/* --- filling a batch ------------------------------------------------------------------------------------------ */

/* One column that is copied. */
typedef struct {
    const char *from, *finals;
    char *to;
    size_t row;
    Py_ssize_t shown, final_rows;  /* rows of a window, one more of an observation; and of all final observations */
} Column;

/* Whole windows inside one episode each. */
typedef struct {
    Py_ssize_t count, length, burn_in, entries;
    int64_t capacity, slots;
    const int64_t *stream, *episode, *start, *anchor;          /* of each window */
    const int64_t *first, *stop, *final_slot;                  /* of each episode */
    const int8_t *ended;
    char *terminated, *truncated, *is_first, *mask, *obs_mask, *train_mask;
    float *weight;
    int64_t *streams, *starts, *anchors;
    int64_t *slot;                                             /* where each window begins */
} Windows;

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
    size_t length = (size_t)w->length, steps = (size_t)w->count * length;
    memset(w->terminated, 0, steps);
    memset(w->truncated, 0, steps);
    memset(w->is_first, 0, steps + (size_t)w->count);
    memset(w->mask, 1, steps);
    memset(w->train_mask, 1, steps);
    memset(w->obs_mask, 1, steps + (size_t)w->count);
    size_t each_int = (size_t)w->count * sizeof(int64_t);
    memcpy(w->streams, w->stream, each_int);
    memcpy(w->starts, w->start, each_int);
    memcpy(w->anchors, w->anchor, each_int);
    for (size_t each = 0; each < (size_t)w->count; each++) {
        int64_t episode = w->episode[each];
        w->weight[each] = 1.0f;
        w->is_first[each * (length + 1)] = w->start[each] == w->first[episode];
        if (w->burn_in > 0) memset(w->train_mask + each * length, 0, (size_t)w->burn_in);
        if (w->start[each] + w->length == w->stop[episode]) {
            w->terminated[(each + 1) * length - 1] = (w->ended[episode] & TERMINATED) != 0;
            w->truncated[(each + 1) * length - 1] = (w->ended[episode] & TRUNCATED) != 0;
            w->obs_mask[(each + 1) * (length + 1) - 1] = w->final_slot[episode] != NO_FINAL;
        }
    }
}

/* Hold what `fill` reads and writes beside the columns. */
static int windows(Held *held, Windows *w, PyObject *table, PyObject *addresses, PyObject *batch)
{
    Py_ssize_t steps = -1, shown = -1;
    const Wanted of_windows[] = {
        {"streams", "lq", 8, &w->count, &w->stream, 0}, {"episodes", "lq", 8, &w->count, &w->episode, 0},
        {"starts", "lq", 8, &w->count, &w->start, 0}, {"anchors", "lq", 8, &w->count, &w->anchor, 0},
    }, of_episodes[] = {
        {"start", "lq", 8, &w->entries, &w->first, 0}, {"stop", "lq", 8, &w->entries, &w->stop, 0},
        {"final_slot", "lq", 8, &w->entries, &w->final_slot, 0}, {"ended", "b", 1, &w->entries, &w->ended, 0},
    }, of_batch[] = {
        {"terminated", "?", 1, &steps, &w->terminated, 1}, {"truncated", "?", 1, &steps, &w->truncated, 1},
        {"is_first", "?", 1, &shown, &w->is_first, 1}, {"mask", "?", 1, &steps, &w->mask, 1},
        {"obs_mask", "?", 1, &shown, &w->obs_mask, 1}, {"train_mask", "?", 1, &steps, &w->train_mask, 1},
        {"weight", "f", 4, &w->count, &w->weight, 1}, {"stream", "lq", 8, &w->count, &w->streams, 1},
        {"start", "lq", 8, &w->count, &w->starts, 1}, {"anchor", "lq", 8, &w->count, &w->anchors, 1},
    };
    w->count = w->entries = -1;
    if (members(held, addresses, of_windows, 4) < 0 || members(held, table, of_episodes, 4) < 0) return -1;
    if (w->length > PY_SSIZE_T_MAX / 16 / (w->count + 1))
        return fail(PyExc_ValueError, "length: wanted what memory can hold");
    steps = w->count * w->length;
    shown = steps + w->count;
    return members(held, batch, of_batch, 10);
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

/* Return what a child adds to its parent. */
static double share(const Tree *it, Py_ssize_t level, double child)
{
    return level == 0 && it->barred && !(child > 0.0) ? 0.0 : child;
}

PyDoc_STRVAR(find_doc, "find(levels, root_sums, barred, targets, places)\n--\n\n"
"Set the places that targets fall into; return how many of them have no weight. Twin of `SumTree.find`.");

static PyObject *find(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    Held held;
    if (arguments(nargs, 5) < 0 || hold(&held, LEVELS + 3) < 0) return NULL;
    Tree it;
    Py_ssize_t count = -1;
    if (tree(&held, &it, args[0], args[1], args[2], 0) < 0) return let_go(&held, NULL);
    double *targets = doubles(&held, args[3], "targets", &count, 0);
    int64_t *places = targets == NULL ? NULL : ints(&held, args[4], "places", &count, 1);
    double *left = places == NULL ? NULL : PyMem_Malloc((size_t)(count + 1) * sizeof(double));
    if (left == NULL) return let_go(&held, places == NULL ? NULL : PyErr_NoMemory());
    Py_ssize_t root = it.count - 1, missed = 0;
    for (Py_ssize_t each = 0; each < count; each++) {
        Py_ssize_t low = 0, high = it.size[root];  /* the first child whose running sum is above the target */
        while (low < high) {
            Py_ssize_t middle = low + (high - low) / 2;
            if (it.root_sums[middle] > targets[each]) high = middle;
            else low = middle + 1;
        }
        Py_ssize_t place = low < it.size[root] ? low : it.size[root] - 1;
        left[each] = targets[each] - it.root_sums[place] + it.level[root][place];
        places[each] = place;
    }
    for (Py_ssize_t level = root - 1; level >= 0; level--) {
        Py_ssize_t nodes = it.size[level] / FAN;
        for (Py_ssize_t each = 0; each < count; each++) {
            if (each + AHEAD < count && places[each + AHEAD] < nodes) {
                fetch((const char *)(it.level[level] + places[each + AHEAD] * FAN), FAN * sizeof(double));
            }
            Py_ssize_t node = places[each] < nodes ? (Py_ssize_t)places[each] : nodes - 1;
            const double *children = it.level[level] + node * FAN;
            double running[FAN], sum = 0.0;
            Py_ssize_t child = 0;
            for (int at = 0; at < FAN; at++) {
                sum = at == 0 ? share(&it, level, children[0]) : sum + share(&it, level, children[at]);
                running[at] = sum;
                child += sum <= left[each];
            }
            child = child < FAN ? child : FAN - 1;
            left[each] = left[each] - running[child] + share(&it, level, children[child]);
            places[each] = node * FAN + child;
        }
    }
    for (Py_ssize_t each = 0; each < count; each++) missed += !(it.level[0][places[each]] > 0.0);
    PyMem_Free(left);
    return let_go(&held, PyLong_FromSsize_t(missed));
}

PyDoc_STRVAR(add_up_doc, "add_up(levels, root_sums, barred, places)\n--\n\n"
"Compute every sum that one of these leaves is part of. Twin of `SumTree._add_up`, whose order of additions it keeps.");

static PyObject *add_up(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    Held held;
    if (arguments(nargs, 4) < 0 || hold(&held, LEVELS + 2) < 0) return NULL;
    Tree it;
    Py_ssize_t count = -1;
    if (tree(&held, &it, args[0], args[1], args[2], 1) < 0) return let_go(&held, NULL);
    int64_t *places = ints(&held, args[3], "places", &count, 0);
    int64_t *nodes = places == NULL ? NULL : PyMem_Malloc((size_t)(count + 1) * sizeof(int64_t));
    if (nodes == NULL) return let_go(&held, places == NULL ? NULL : PyErr_NoMemory());
    for (Py_ssize_t each = 0; each < count; each++) {
        nodes[each] = places[each];
        if (places[each] < 0 || places[each] >= it.size[0]) {
            PyMem_Free(nodes);
            PyErr_SetString(PyExc_IndexError, "places: wanted leaves of the tree, got others");
            return let_go(&held, NULL);
        }
    }
    for (Py_ssize_t level = 0; level < it.count - 1; level++) {
        for (Py_ssize_t each = 0; each < count; each++) {
            if (each + AHEAD < count) {
                fetch((const char *)(it.level[level] + nodes[each + AHEAD] / FAN * FAN), FAN * sizeof(double));
            }
            nodes[each] /= FAN;
            const double *children = it.level[level] + nodes[each] * FAN;
            double pair[FAN / 2];  /* NumPy adds up 16 numbers in this order */
            for (int at = 0; at < FAN / 2; at++) {
                pair[at] = share(&it, level, children[at]) + share(&it, level, children[at + FAN / 2]);
            }
            it.level[level + 1][nodes[each]] =
                ((pair[0] + pair[1]) + (pair[2] + pair[3])) + ((pair[4] + pair[5]) + (pair[6] + pair[7]));
        }
    }
    Py_ssize_t root = it.count - 1;
    double sum = 0.0;
    for (Py_ssize_t each = 0; each < it.size[root]; each++) {
        double child = share(&it, root, it.level[root][each]);
        sum = each == 0 ? child : sum + child;
        it.root_sums[each] = sum;
    }
    PyMem_Free(nodes);
    return let_go(&held, Py_NewRef(Py_None));
}

static PyMethodDef methods[] = {
    {"choose", (PyCFunction)(void (*)(void))choose, METH_FASTCALL, choose_doc},
    {"sift", (PyCFunction)(void (*)(void))sift, METH_FASTCALL, sift_doc},
    {"find", (PyCFunction)(void (*)(void))find, METH_FASTCALL, find_doc},
    {"add_up", (PyCFunction)(void (*)(void))add_up, METH_FASTCALL, add_up_doc},
    {"fill", (PyCFunction)(void (*)(void))fill, METH_FASTCALL, fill_doc},
    {NULL, NULL, 0, NULL},
};

static int execute(PyObject *module)
{
    return PyModule_AddIntConstant(module, "TWINS", 1);
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
