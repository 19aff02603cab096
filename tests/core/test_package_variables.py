"""What of a machine's own settings for packages reaches the builder of environments."""

import pytest

from skyloom.settings import InvalidSetting, Settings, package_variables


def test_uvs_own_variables_and_proxies_pass_and_strangers_do_not() -> None:
    told = {
        "UV_INDEX": "https://one.example/simple",
        "UV_CACHE_DIR": "/cache",
        "https_proxy": "http://proxy.example:3128",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "SKYLOOM_TOKEN": "secret",
        "PYTHONPATH": "/strange",
        "UV_PYTHON": "/other/python",
        "UV_PROJECT_ENVIRONMENT": "/other",
        "UV_SYSTEM_PYTHON": "1",
        "UV_OFFLINE": "",
    }
    assert set(package_variables(told)) == {"UV_INDEX", "UV_CACHE_DIR", "https_proxy"}


def test_pips_variables_are_said_in_uvs_words_unless_uv_was_told_itself() -> None:
    told = {
        "PIP_INDEX_URL": "https://a.example",
        "PIP_FIND_LINKS": "/wheels /more",
        "PIP_EXTRA_INDEX_URL": "https://b.example",
    }
    assert package_variables(told) == {
        "UV_DEFAULT_INDEX": "https://a.example",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_INDEX": "https://b.example",
    }
    assert package_variables({**told, "UV_INDEX": "https://c.example"})["UV_INDEX"] == "https://c.example"


@pytest.mark.parametrize("variable", ["SKYLOOM_ENVIRONMENT_CACHE", "SKYLOOM_MOUNT_CACHE"])
def test_size_that_is_none_is_refused_by_name(variable: str) -> None:
    with pytest.raises(InvalidSetting, match=variable):
        Settings.read({variable: "much"})
