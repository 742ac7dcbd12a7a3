import pytest

from lorapack.fleet.adapter import Adapter
from lorapack.fleet.fleet import Fleet
from lorapack.profile.profile import Profile


@pytest.fixture(scope="session")
def profile():
    return Profile.load()


@pytest.fixture(scope="session")
def fleet():
    return Fleet([Adapter(f"adapter-{i}", rank=8 + 8 * (i % 2), rate_rps=0.2) for i in range(6)])
