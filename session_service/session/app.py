"""What an app is, and what its code must not leave undone."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any

__all__ = ["check_app", "check_result", "is_coroutine_function"]

AN_APP = (
    "an app is a function without arguments, which gets its session by get_current_session(): a thread session runs"
    " plain functions, a coroutine session `async def`"
)


# Lazy ones: each holds code that runs when somebody calls, enters or iterates it.
UNRUN = (functools.partial, contextlib.ContextDecorator, contextlib.AsyncContextDecorator, map, filter)

# How many elements of a collection are looked at: the rest of a large one would hold up the loop.
MOST_ELEMENTS = 100


def check_app(name: object, app: object) -> None:
    """Check what can be known of an app before it runs.

    A function may still return what nobody awaits: see `check_result`.

    Raises:
        TypeError: it is no app, or the name is no text; the text says why, and what an app is.
    """
    if not isinstance(name, str):
        raise TypeError(f"{name!r} is no name of an app: it is of type {type(name).__name__}, and names are texts")
    if not callable(app):
        raise TypeError(f"{name!r} is no function: it is of type {type(app).__name__}; {AN_APP}")
    function = _called(app)
    if inspect.isclass(function):
        fault = "it is a class"
    elif inspect.isgeneratorfunction(function):
        fault = "it is a generator: nothing would run it"
    elif inspect.isasyncgenfunction(function):
        fault = "it is an async generator: nothing would run it"
    elif missing := _missing_arguments(app, function):
        fault = f"it needs {', '.join(missing)}"
    else:
        return
    raise TypeError(f"{name!r} is no app: {fault}; {AN_APP}")


def check_result(result: object, *, of_app: bool = False) -> None:
    """Check what code of the app has returned to a caller that awaits nothing more.

    Raises:
        TypeError: it is code that has not run, and never will.
    """
    coroutines = [each for each in (result, *_elements(result)) if inspect.iscoroutine(each)]
    for coroutine in coroutines:
        if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
            coroutine.close()  # else Python would warn of it, somewhere and some time
    if coroutines or _is_unrun(result) or (of_app and inspect.isroutine(result)):
        raise TypeError(
            f"it returned {result!r}, and nobody awaits or iterates that, nor calls or enters it: it has not run; is"
            " there an `async def` or a generator behind a decorator, or an `await` missing?"
        )


def _elements(result: object) -> list[object]:
    """Return what a collection holds, as far as that is cheap to know."""
    if isinstance(result, dict):
        result = result.values()
    elif not isinstance(result, (list, tuple, set)):
        return []
    return list(itertools.islice(result, MOST_ELEMENTS))


def _is_unrun(result: object) -> bool:
    lazy = inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result)
    return lazy or isinstance(result, UNRUN)


def is_coroutine_function(func: Callable[..., Any]) -> bool:
    """Tell whether calling ``func`` gives a coroutine: an ``async def``, or an object that is called like one."""
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(_called(func))


def _called(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return what runs when ``func`` is called, as far as that can be known: a function, or a class."""
    while not (inspect.isclass(func) or inspect.isfunction(func) or inspect.isbuiltin(func)):
        if isinstance(func, functools.partial):
            func = func.func
        elif inspect.ismethod(func):
            func = func.__func__
        elif inspect.isroutine(called := getattr(type(func), "__call__", None)):  # noqa: B004
            return called
        else:
            return func
    return func


def _missing_arguments(app: Callable[..., Any], function: Callable[..., Any]) -> list[str]:
    if hasattr(function, "__signature__"):  # of a decorator that says what it wraps, and may well fill that in
        return []
    try:
        parameters = inspect.signature(app, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):  # it is none of Python's, and does not say
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty and parameter.kind not in optional
    ]
