"""Named numpy arrays that outlive the process.

    import bartender

    with bartender.open("job.arena") as a:
        x = a.array("state", (1000, 1000), "float64")   # zeros at first, what it was after a restart
        with a.transaction() as t:
            t.add(x)                                     # from here on all changes, or none
            x += 1

The memory of an array is in the arena, a file mapped into the process; a store to it outlives
the process as soon as it is made, also when that is killed.  Against power loss see
BARTENDER_DURABILITY, and `a.persist(x)`.

The library is found where it was preloaded, in $LIBBARTENDER, beside an installed copy of this
module, or by the loader's own search.
"""

import ctypes
import errno
import os
import struct
import weakref

__all__ = ['open', 'Arena', 'Transaction', 'BartenderError']

_NAME_MAX = 63
_MAGIC = 0x59415252412D4254  # says what a block behind a root is; "TB-ARRAY", backwards
# magic, address of the data, its bytes, number of dimensions, the dtype's text
_HEAD = struct.Struct('<QQQQ64s')
_DIMENSIONS_MAX = 32


class BartenderError(OSError):
    """What the library refuses; `errno` is as in docs/api.md."""


def _find_library():
    given = os.environ.get('LIBBARTENDER')
    here = os.path.dirname(os.path.abspath(__file__))
    names = [given] if given else [
        None,  # preloaded
        *(os.path.join(here, up, 'libbartender.so') for up in ('.', '..', '../..', '../../..')),
        'libbartender.so']
    for name in names:
        try:
            library = ctypes.CDLL(name, use_errno=True)
            library.btd_cluster_open
        except (OSError, AttributeError):
            continue
        return library
    raise ImportError('libbartender.so was not found; preload it, or set LIBBARTENDER to its path')


def _declare(library):
    pointer, text, size, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
    for name, result, arguments in (
            ('btd_cluster_open', pointer, [text]),
            ('btd_cluster_close', number, [pointer]),
            ('btd_usable_size', size, [pointer]),
            ('btd_persist', number, [pointer, size]),
            ('btd_root_set', number, [pointer, text, pointer]),
            ('btd_root_get', pointer, [pointer, text]),
            ('btd_root_remove', number, [pointer, text]),
            ('btd_root_next', number, [pointer, ctypes.POINTER(ctypes.c_uint), ctypes.POINTER(text),
                                       ctypes.POINTER(pointer)]),
            ('btd_tx_begin', number, [pointer]),
            ('btd_tx_add', number, [pointer, size]),
            ('btd_tx_calloc', pointer, [size, size]),
            ('btd_tx_free', number, [pointer]),
            ('btd_tx_commit', number, []),
            ('btd_tx_depth', ctypes.c_uint, []),
            ('btd_tx_abort', number, [])):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


_library = None


def _call(name, *arguments, what):
    """Calls the library; raises for -1 and NULL."""
    global _library
    if _library is None:
        _library = _declare(_find_library())
    ctypes.set_errno(0)
    result = getattr(_library, name)(*arguments)
    if result in (-1, None):
        number = ctypes.get_errno()
        raise BartenderError(number, f'{what}: {os.strerror(number)}')
    return result


def open(path, size=None, durability=None, create=True, on_restart=None):
    """Opens the arena at `path`, and makes it if it is missing and `create` is true.

    size: of a new arena, such as "16G"; durability: "process", "lazy" or "strict"; on_restart:
    "salvage", "keep" or "discard".  Not given: as the BARTENDER_ settings say.
    """
    options = [f'create={int(bool(create))}']
    options += [f'{name}={value}' for name, value in
                (('size', size), ('durability', durability), ('on_restart', on_restart)) if value is not None]
    path = os.fspath(path)
    if '?' in path:
        raise ValueError(f'{path}: a path with a ? cannot be opened')
    return Arena(path, '?' + '&'.join(options))


class Transaction:
    """Changes that belong together.  An exception undoes them all."""

    def __init__(self, arena):
        self._arena = arena

    def __enter__(self):
        _call('btd_tx_begin', self._arena._opened(), what='transaction')
        return self

    def add(self, *arrays):
        """Keeps the bytes of arrays (or of views into them): call it before they are changed."""
        for array in arrays:
            low, high = _bounds(array)
            _call('btd_tx_add', low, high - low, what='transaction')

    def __exit__(self, kind, value, trace):
        if kind is None:
            _call('btd_tx_commit', what='commit')
        else:
            _call('btd_tx_abort', what='abort')
        return False


class Arena:
    """An open arena.  Use it in a `with`, or call close()."""

    def __init__(self, path, options):
        self.path = path
        self._cluster = _call('btd_cluster_open', os.fsencode(path) + options.encode(), what=path)
        self._arrays = 0  # that are still used
        self._is_closed = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
        return False

    def close(self):
        """Closes the arena.  Its memory stays mapped as long as arrays of it are used."""
        self._is_closed = True
        self._close_if_unused()

    def _close_if_unused(self):
        if self._is_closed and self._arrays == 0 and self._cluster is not None:
            cluster, self._cluster = self._cluster, None
            _call('btd_cluster_close', cluster, what=self.path)

    def _opened(self):
        if self._is_closed:
            raise ValueError(f'{self.path}: the arena is closed')
        return self._cluster

    def array(self, name, shape=None, dtype=None):
        """The array called `name`: the one that is there, else a new one of zeros.

        shape and dtype may be left out for one that is there; otherwise they must be the recorded
        ones: ValueError.  No such array and no shape: KeyError.
        """
        import numpy
        cluster, key = self._opened(), _key(name)
        wanted_shape = None if shape is None else _shape(shape)
        wanted_dtype = None if dtype is None else numpy.dtype(dtype)
        head = _root(cluster, key)
        if head is None:
            if wanted_shape is None:
                raise KeyError(name)
            head = self._make(key, wanted_shape, wanted_dtype or numpy.dtype('float64'))
        address, size_bytes, found_shape, found_dtype = _parse(head, name)
        for what, wanted, found in (('shape', wanted_shape, found_shape), ('dtype', wanted_dtype, found_dtype)):
            if wanted is not None and wanted != found:
                raise ValueError(f'{self.path}: array {name!r} has {what} {found}, not {wanted}; '
                                 f'use that, another name, or remove({name!r})')
        if size_bytes == 0:
            return numpy.empty(found_shape, found_dtype)
        buffer = (ctypes.c_char * size_bytes).from_address(address)
        self._arrays += 1
        weakref.finalize(buffer, self._forget_array)
        count = size_bytes // found_dtype.itemsize
        return numpy.frombuffer(buffer, dtype=found_dtype, count=count).reshape(found_shape)

    def _forget_array(self):
        self._arrays -= 1
        self._close_if_unused()

    def _make(self, key, shape, dtype):
        if dtype.hasobject:
            raise TypeError(f'{dtype}: Python objects cannot lie in an arena')
        text = _dtype_text(dtype)
        size_bytes = dtype.itemsize
        for extent in shape:
            size_bytes *= extent
        with Transaction(self):
            head = _call('btd_tx_calloc', 1, _HEAD.size + 8 * len(shape), what=self.path)
            data = _call('btd_tx_calloc', 1, max(size_bytes, 1), what=self.path)
            content = _HEAD.pack(_MAGIC, data, size_bytes, len(shape), text)
            content += struct.pack(f'<{len(shape)}Q', *shape)
            ctypes.memmove(head, content, len(content))
            _call('btd_root_set', self._cluster, key, head, what=self.path)
        return head

    def remove(self, name):
        """Removes the array and gives its memory back.  Arrays of it in use must not be used again."""
        cluster, key = self._opened(), _key(name)
        head = _root(cluster, key)
        if head is None:
            raise KeyError(name)
        address = _parse(head, name)[0]
        with Transaction(self):
            _call('btd_root_remove', cluster, key, what=name)
            _call('btd_tx_free', address, what=name)
            _call('btd_tx_free', head, what=name)

    def names(self):
        """The names of all arrays."""
        cluster = self._opened()
        position, name, value = ctypes.c_uint(0), ctypes.c_char_p(), ctypes.c_void_p()
        found = []
        while _call('btd_root_next', cluster, position, name, value, what=self.path) == 1:
            if _is_array(value.value):
                found.append(name.value.decode())
        return sorted(found)

    def transaction(self):
        """For `with a.transaction() as t: t.add(x); ...`."""
        return Transaction(self)

    def persist(self, array):
        """Makes what was stored to the array durable, where the arena's durability is more than
        `process`."""
        low, high = _bounds(array)
        _call('btd_persist', low, high - low, what=self.path)


def _key(name):
    key = name.encode()
    if not 0 < len(key) <= _NAME_MAX or b'\0' in key:
        raise ValueError(f'{name!r}: a name has 1 to {_NAME_MAX} bytes')
    return key


def _shape(shape):
    shape = (shape,) if isinstance(shape, int) else tuple(int(extent) for extent in shape)
    if len(shape) > _DIMENSIONS_MAX or any(extent < 0 for extent in shape):
        raise ValueError(f'{shape}: not a shape')
    return shape


def _dtype_text(dtype):
    # For a structured dtype the list of its fields, which names their order and padding.
    text = (dtype.str if dtype.names is None else repr(dtype.descr)).encode()
    if len(text) > 64:
        raise ValueError(f'{dtype}: described by more than 64 bytes')
    return text


def _bounds(array):
    import numpy
    try:
        from numpy.lib.array_utils import byte_bounds
    except ImportError:
        byte_bounds = numpy.byte_bounds
    return byte_bounds(array)


def _root(cluster, key):
    try:
        return _call('btd_root_get', cluster, key, what=key.decode())
    except BartenderError as error:
        if error.errno == errno.ENOENT:
            return None
        raise


def _is_array(head):
    # A block of an open transaction is not live yet.
    is_whole = _library.btd_usable_size(head) >= _HEAD.size or _library.btd_tx_depth() > 0
    return is_whole and head % 8 == 0 and ctypes.c_uint64.from_address(head).value == _MAGIC


def _parse(head, name):
    import ast
    import numpy
    if not _is_array(head):
        raise ValueError(f'{name!r} is a root of this arena, but not an array')
    _, address, size_bytes, dimensions, text = _HEAD.unpack(ctypes.string_at(head, _HEAD.size))
    raw = ctypes.string_at(head + _HEAD.size, 8 * dimensions)
    shape = struct.unpack(f'<{dimensions}Q', raw)
    text = text.rstrip(b'\0').decode()
    dtype = numpy.dtype(ast.literal_eval(text) if text.startswith('[') else text)
    return address, size_bytes, shape, dtype

