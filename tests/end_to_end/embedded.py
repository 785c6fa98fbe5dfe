"""A program with Hadal inside, in Python through ctypes: prints the same story as embedded.c.

`embedded.py LIBRARY` with the path of the shared library; no package is needed.
"""

import ctypes as c
import sys

TEXT = 2


class LoadOptions(c.Structure):
    """HadalLoadOptions of hadal.h."""

    _fields_ = [
        ("size", c.c_size_t),
        ("device", c.c_char_p),
        ("context", c.c_uint32),
        ("threads", c.c_uint32),
        ("chunk", c.c_uint32),
        ("low_priority", c.c_uint32),
        ("host_budget", c.c_uint64),
        ("device_budget", c.c_uint64),
        ("dispatch_budget_ms", c.c_uint32),
        ("reserved", c.c_uint32),
        ("on_progress", c.c_void_p),
        ("user", c.c_void_p),
    ]


class Request(c.Structure):
    """The beginning of HadalRequest: what comes after it is zero, the default."""

    _fields_ = [
        ("size", c.c_size_t),
        ("text", c.c_char_p),
        ("ids", c.c_void_p),
        ("ids_len", c.c_size_t),
        ("messages", c.c_void_p),
        ("messages_len", c.c_size_t),
        ("messages_json", c.c_char_p),
        ("max_tokens", c.c_uint64),
        ("sampling", c.c_void_p),
        ("seed", c.c_uint64),
    ]


class Event(c.Structure):
    """The beginning of HadalEvent."""

    _fields_ = [
        ("size", c.c_size_t),
        ("kind", c.c_uint32),
        ("reasoning", c.c_uint32),
        ("done", c.c_uint64),
        ("total", c.c_uint64),
        ("text", c.c_char_p),
    ]


OnEvent = c.CFUNCTYPE(c.c_int32, c.c_void_p, c.POINTER(Event))


def checked(hadal, status, error):
    """Raises what happened, unless it worked."""
    if status != 0:
        text = hadal.hadal_error_message(error).decode()
        hadal.hadal_error_free(error)
        raise RuntimeError(text)


def opened(path):
    """The library, with the types of what is called."""
    hadal = c.CDLL(path)
    hadal.hadal_error_message.restype = c.c_char_p
    for name in ["error_message", "error_free", "model_free", "engine_free", "session_free"]:
        getattr(hadal, f"hadal_{name}").argtypes = [c.c_void_p]
    return hadal


def main(path):
    """Writes a story."""
    hadal = opened(path)
    model, engine, session, error = (c.c_void_p() for _ in range(4))

    def call(name, *arguments):
        checked(hadal, getattr(hadal, f"hadal_{name}")(*arguments, c.byref(error)), error)

    call("model_shipped", c.byref(model))
    options = LoadOptions(size=c.sizeof(LoadOptions), device=b"host", context=512, threads=2)
    call("load", model, c.byref(options), c.byref(engine))
    call("session_new", engine, None, c.byref(session))
    pieces = []

    @OnEvent
    def on_event(_, event):
        if event.contents.kind == TEXT:
            pieces.append(event.contents.text)
        return 0

    text = b"Once upon a time"
    request = Request(size=c.sizeof(Request), text=text, max_tokens=40, seed=5)
    call("generate", session, c.byref(request), on_event, None, None)
    sys.stdout.buffer.write(b"".join(pieces) + b"\n")
    try:
        call("model_open", b"/there/is/nothing", c.byref(c.c_void_p()))
    except RuntimeError as failure:
        assert "/there/is/nothing" in str(failure), failure
    else:
        raise AssertionError("there is something")
    # The wrong order: each keeps what it needs.
    hadal.hadal_model_free(model)
    hadal.hadal_engine_free(engine)
    hadal.hadal_session_free(session)


if __name__ == "__main__":
    main(sys.argv[1])
