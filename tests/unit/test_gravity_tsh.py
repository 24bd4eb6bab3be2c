"""tsh login in a terminal of its own: the documented prompt, the password once, nothing else."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.engines.gravity import tsh

PASSWORD = "correct horse"
# Reads the password as tsh does, which refuses anything but a terminal; its user has a second factor if it is "otp".
PROGRAM = f"""#!{sys.executable}
import getpass, os, sys, time
user = next(word.partition("=")[2] for word in sys.argv if word.startswith("--user="))
print(f"Enter password for Teleport user {{user}}:", flush=True)
if not os.isatty(0):
    sys.exit("inappropriate ioctl for device")
if user == "slow":
    time.sleep(60)
if getpass.getpass("") != {PASSWORD!r}:
    sys.exit("ERROR: access denied")
if user == "otp":
    input("Enter your OTP token:\\n")
assert open(os.environ["SSL_CERT_FILE"]).read() == "PEM"
open(os.environ["KUBECONFIG"], "w").write("config")
print("Logged in as:", user, "in", os.environ["HOME"])
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "tsh"
    path.write_text(PROGRAM)
    path.chmod(0o755)
    return str(path)


def login(program: str, folder: Path, user: str = "admin", password: str = PASSWORD, timeout: float = 30) -> Path:
    return tsh.login(program, "lab.example:32009", user, password, folder=folder, certificate="PEM", timeout=timeout)


def test_the_password_is_typed_at_the_prompt(program: str, tmp_path: Path) -> None:
    kubeconfig = login(program, tmp_path / "login")
    assert kubeconfig == tmp_path / "login" / "kubeconfig"
    assert kubeconfig.read_text() == "config"
    assert stat.S_IMODE(kubeconfig.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("user", "password", "timeout", "text"),
    [
        ("admin", "wrong password", 30, "access denied"),
        ("otp", PASSWORD, 30, "second factor"),
        ("slow", PASSWORD, 3, "did not end within 3 s"),
    ],
)
def test_a_refused_login_is_reported_without_the_password(
    program: str, tmp_path: Path, user: str, password: str, timeout: float, text: str
) -> None:
    with pytest.raises(DevenvError, match=text) as caught:
        login(program, tmp_path / "login", user, password, timeout)
    assert password not in str(caught.value)
    assert caught.value.reason.id == "gravity_tsh"
    assert not (tmp_path / "login" / "kubeconfig").exists()


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(DevenvError, match="nowhere/tsh is not on this machine"):
        login("/nowhere/tsh", tmp_path / "login")
