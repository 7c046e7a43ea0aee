"""Where the cache lies."""

from pathlib import Path

from echojepa_jax.utils.cache import cache_dir


def test_environment_names_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ECHOJEPA_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("ECHOJEPA_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == Path(tmp_path, ".cache", "echojepa_jax")
