"""Root keys are made once and kept to their owner."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor

from clary.front.credentials import CredentialStore
from clary.settings import Settings


def test_the_root_keys_are_the_owners_alone(tmp_path):
    CredentialStore(tmp_path, Settings(home=tmp_path))
    assert stat.S_IMODE((tmp_path / "credentials.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["credentials.json"]


def test_many_starts_at_once_make_one_set_of_keys(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: CredentialStore(tmp_path, Settings(home=tmp_path)), range(16)))
    assert len({store.root for store in stores}) == 1


def test_secrets_do_not_show_in_logs(tmp_path):
    store = CredentialStore(tmp_path, Settings(home=tmp_path))
    assert store.root.secret_key not in repr(store.root)
    assert store.root.token_key not in repr(store.root)
