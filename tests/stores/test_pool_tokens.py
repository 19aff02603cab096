from pathlib import Path

from skyloom.stores.pool_tokens import LocalPoolTokens


def test_token_is_kept_privately_replaced_and_dropped(tmp_path: Path) -> None:
    tokens = LocalPoolTokens(tmp_path / "pools")
    tokens.keep("a", "first")
    tokens.keep("a", "second")
    assert tokens.file("a").read_text() == "second"
    assert tokens.file("a").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "pools").stat().st_mode & 0o777 == 0o700
    tokens.keep("a", "")
    assert not tokens.file("a").exists()
    tokens.drop("a")
