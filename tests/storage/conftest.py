"""The tests of this folder can run on either database."""

from tests.contract.places import either as either
