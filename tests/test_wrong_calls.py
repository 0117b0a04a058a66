"""Errors say where, what, and what to write instead, in the words of the function that was called."""

import importlib
import pkgutil

import pytest
import wrong_calls

from jadam._errors import Misuse

AREAS = [importlib.import_module(f"wrong_calls.{module.name}") for module in pkgutil.iter_modules(wrong_calls.__path__)]
CALLS = {message: call for area in AREAS for message, call in area.CALLS.items()}


def test_no_message_stands_twice():
    assert len(CALLS) == sum(len(area.CALLS) for area in AREAS)


@pytest.mark.parametrize("message", CALLS)
def test_wrong_call(message):
    with pytest.raises(Misuse) as error:  # never an error that JAX or Python raised
        CALLS[message]()
    assert str(error.value) == message
