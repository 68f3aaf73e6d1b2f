"""UIDs come from content: same content, same UID; whatever the root, a valid one."""

from hypothesis import given
from hypothesis import strategies as st

from medpipe.identity import digest, is_uid, safe_name, set_digest, uid_from


@given(st.lists(st.text() | st.binary(), max_size=4))
def test_a_derived_uid_is_valid_and_repeatable(parts: list[str | bytes]) -> None:
    for root in ("2.25", "1.2.826.0.1.3680043.10.1234"):
        uid = uid_from(root, *parts)
        assert is_uid(uid) and uid.startswith(root + ".") and uid == uid_from(root, *parts)


def test_part_borders_matter() -> None:
    assert digest("ab", "c") != digest("a", "bc")
    assert set_digest(["b", "a", "a"]) == set_digest(["a", "b"])


@given(st.text())
def test_no_path_is_built_from_a_foreign_uid(text: str) -> None:
    name = safe_name(text)
    assert (name == text and is_uid(text)) or name.startswith("uid-")
    assert "/" not in name and name not in (".", "..") and len(name) <= 64


def test_uid_grammar() -> None:
    assert is_uid("1.2.840.10008.1.2")
    for bad in ("", "1", "1.02", "1..2", "1.2.", "../../x", "1.2\n", "1." + "2" * 63):
        assert not is_uid(bad), bad
