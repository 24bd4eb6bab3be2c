#!/usr/bin/env python3
"""A test double of `tsh login`, as it comes with Gravity: it reads the password from a terminal only."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="tsh")
    parser.add_argument("command", choices=["login"])
    parser.add_argument("--proxy", required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--insecure", action="store_true")
    options = parser.parse_args()
    print(f"Enter password for Teleport user {options.user}:", flush=True)
    if not os.isatty(0):
        print("inappropriate ioctl for device", file=sys.stderr)
        return 1
    password = getpass.getpass("")
    context = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE"))
    # As in Go, a trusted certificate need not be that of a CA.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    body = json.dumps({"user": options.user, "password": password}).encode()
    try:
        with urllib.request.urlopen(
            f"https://{options.proxy}/webapi/login", body, timeout=60, context=context
        ) as answer:
            document = json.load(answer)
    except urllib.error.URLError as error:
        print(f"\x1b[31mERROR: \x1b[0m{error.reason}", file=sys.stderr)
        return 1
    if "error" in document:
        print(f"\x1b[31mERROR: \x1b[0m{document['error']}", file=sys.stderr)
        return 1
    kubeconfig = Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    kubeconfig.parent.mkdir(parents=True, exist_ok=True)
    kubeconfig.write_text(json.dumps(document["kubeconfig"]))
    print(f"> Profile URL:  https://{options.proxy}\n  Logged in as: {options.user}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
