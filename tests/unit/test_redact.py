"""Secrets in text: every form is detected, and redacted text contains none."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.redact import find, redact

HEX = "9555b74008f24687eb964bd90a164ecb5760a89481d9c55a77c129b7db438168"
# Assembled here, so that secret scanners do not report this file.
BEGIN, END = "-----BEGIN {}PRIVATE " + "KEY-----", "-----END {}PRIVATE " + "KEY-----"
BODY = "\n".join(["MIIEpAIBAAKCAQEAxQfZ0m7r1Jq8H2nC4sWqvGmMzv5Jb0Z1nqXhM1c4b7d9e2f0"] * 3)
JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6IiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJlLXBhcnQtaGVyZQ"


def pem(kind: str = "") -> str:
    return f"{BEGIN.format(kind)}\n{BODY}\n{END.format(kind)}"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


SECRETS = [
    (
        "bootstrap token",
        "kubeadm join 10.0.0.1:6443 --token {} --discovery-token-ca-cert-hash x",
        "abcdef.0123456789abcdef",
    ),
    ("bootstrap token in JSON", '{{"token": "{}"}}', "q1w2e3.r4t5y6u7i8o9p0a1"),
    ("certificate key option", "--control-plane --certificate-key {}", HEX),
    ("certificate key in YAML", "certificateKey: {}\n", HEX),
    ("certificate key in JSON", '{{"certificate_key": "{}"}}', HEX),
    ("certificate key on the next line", "[upload-certs] Using certificate key:\n{}\n", HEX),
    ("certificate key after an escaped line end", "Using certificate key:\\n{}\\n", HEX),
    ("RSA key", "x\n{}\ny", pem("RSA ")),
    ("EC key", "{}", pem("EC ")),
    ("PKCS 8 key", "{}", pem()),
    ("OpenSSH key", "{}", pem("OPENSSH ")),
    ("key in JSON", "{}", json.dumps(pem("RSA "))[1:-1]),
    ("key whose end was cut off", "{}", pem("RSA ")[:150]),
    ("key whose beginning was cut off", "{}", pem("RSA ")[60:]),
    ("kubeconfig", "    client-key-data: {}\n", encoded(pem("RSA "))),
    ("kubeconfig in JSON", '"client-key-data": "{}"', encoded(pem("EC "))),
    ("key of a Secret", "  tls.key: {}\n", encoded(pem("EC "))),
    ("OpenSSH key without its frame", "{}", "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW"),
    ("service account token", "token: {}", JWT),
    ("bearer", "Authorization: Bearer {}", "c2VjcmV0LXRva2VuLXZhbHVl"),
    ("basic", "Proxy-Authorization: Basic {}", encoded("user:password")),
    ("proxy", "HTTPS_PROXY=http://user:{}@proxy.example:3128", "pa55word"),
    ("password in YAML", "password: {}", "hunter2hunter2"),
    ("password in an assignment", "PGPASSWORD={} psql", "hunter2hunter2"),
    ("token of Gravity", "gravity join 10.0.0.1 --token={} --role=node", "k7Xq2mNf"),
    ("token of Gravity in JSON", '{{"token": "{}"}}', "k7XqmNfp"),
    ("join token", "Join token:\t{}", "k7XqmNfp"),
    ("token in YAML", "    token: {}\n", "k7Xq2mNf"),
    ("token secret", '"token-secret": "{}"', encoded("0123456789abcdef")),
]


@pytest.mark.parametrize(("frame", "secret"), [row[1:] for row in SECRETS], ids=[row[0] for row in SECRETS])
def test_a_secret_is_detected_and_redacted(frame: str, secret: str) -> None:
    raw = frame.format(secret)
    assert secret in raw
    assert find(raw) != []
    clean = redact(raw)
    assert not any(line in clean for line in secret.replace("\\n", "\n").splitlines() if len(line) > 5)
    assert find(clean) == []
    assert redact(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        f"sha256:{HEX}",
        f"--discovery-token-ca-cert-hash sha256:{HEX}",
        f"registry.k8s.io/pause@sha256:{HEX}",
        "v1.36.3",
        "master-0.aio.devenv.internal",
        "certificate-authority-data: " + encoded("-----BEGIN CERTIFICATE-----\nMIIC\n-----END CERTIFICATE-----\n"),
        "-----BEGIN CERTIFICATE-----\nMIIC\n-----END CERTIFICATE-----",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0mYwFh2n devenv-aio",
        "http://proxy.example:3128/path",
        "https://10.213.4.10:6443/healthz?timeout=10s",
        "the token is valid for 2h0m0s",
        "cannot fetch a token: unauthorized",
        "invalid bearer token: x509: certificate has expired",
        "automountServiceAccountToken: false",
        "kube-apiserver.manifest0123456789",
        "password:",
        "bearer authentication and basic functionality",
        "2026-11-21T10:05:01.123Z changed master-0 node_prepare : hosts | Write /etc/hosts (0.12 s)",
    ],
)
def test_a_text_without_secrets_is_not_changed(text: str) -> None:
    assert redact(text) == text
    assert find(text) == []


def test_given_values_are_redacted() -> None:
    assert "correct horse" not in redact("it is correct horse", ["", "correct horse"])


def test_a_real_key_of_ssh_keygen_is_redacted(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    raw = (tmp_path / "key").read_text()
    assert set(find(raw)) == {"private key"}
    assert redact(f"before\n{raw}after") == "before\n[private key redacted]\nafter"


def test_only_the_secret_is_replaced() -> None:
    raw = f"a\nkubeadm join --token abcdef.0123456789abcdef \\\n --certificate-key {HEX}\nb"
    assert redact(raw).splitlines() == [
        "a",
        "kubeadm join --token [bootstrap token redacted] \\",
        " --certificate-key [certificate key redacted]",
        "b",
    ]


@pytest.mark.parametrize("piece", ["AbCd0123+/=\n", "a", "a-", "eyJ", "http", "token: ", "LS0t", "x@", "-----BEGIN "])
def test_long_text_takes_little_time(piece: str) -> None:
    text = piece * (300_000 // len(piece))
    began = time.process_time()
    redact(text)
    assert time.process_time() - began < 2
