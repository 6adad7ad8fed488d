"""A real S3 server on this machine (SeaweedFS, one process, loopback only): for tests, and for trying an S3 store.

``python deployments/s3.py [--folder DIR] [--port N]`` starts one with the bucket ``fem``, prints what to export, and
serves until it is stopped. Credentials are those of the environment, or new random ones for this start.
"""

import argparse
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

BUCKET = "fem"
WEED = Path(sys.executable).with_name("weed")


class S3Server:
    """One server with a bucket ``fem``; ``start`` and ``kill`` may alternate, the data stay in the folder."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """
        Args:
            folder: where the server keeps its data.
            port: of the S3 endpoint; a free one by default.
        """
        self.folder = folder
        self._ports = _free_ports(4)
        if port is not None:
            self._ports[0] = port
        self.key = os.environ.get("AWS_ACCESS_KEY_ID") or secrets.token_hex(10)
        self.secret = os.environ.get("AWS_SECRET_ACCESS_KEY") or secrets.token_hex(20)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """URL of the endpoint."""
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self, seconds: float = 60.0) -> None:
        """Start, and return when the bucket answers.

        Raises:
            RuntimeError: it ended or did not answer in time; the message holds the end of its log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        s3, master, volume, filer = self._ports
        command = [str(WEED), *arguments(str(self.folder), s3, "127.0.0.1", "127.0.0.1")]
        command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
        log = self.folder / "server.log"
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            if self._answers():
                return
            time.sleep(0.1)
        self.kill()
        text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
        raise RuntimeError(f"the S3 server did not answer on {self.endpoint}; its log ends with: {text[-1500:]}")

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _answers(self) -> bool:
        """Whether the bucket can be listed."""
        import botocore.session

        client = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
        )
        try:
            with urllib.request.urlopen(self.endpoint, timeout=2):
                pass
        except urllib.error.HTTPError:
            pass  # it answers, and wants credentials
        except OSError:
            return False
        try:
            client.head_bucket(Bucket=BUCKET)
        except Exception:  # noqa: BLE001 (not there yet, whatever the reason; the caller has a deadline)
            return False
        return True


def arguments(folder: str, port: int, ip: str, bind: str) -> list[str]:
    """What ``weed`` is started with; deployments/containers has the same.

    Args:
        ip: under which the server's parts reach each other.
        bind: on which it listens.
    """
    place = [f"-dir={folder}", f"-bucket={BUCKET}", f"-ip={ip}", f"-ip.bind={bind}"]
    without = ["-admin.ui=false", "-webdav=false", "-master.telemetry=false"]
    return ["mini", *place, *without, f"-s3.port={port}", "-s3.port.iceberg=0", "-s3.port.lance=0"]


def _free_ports(count: int) -> list[int]:
    """Free ports whose neighbours 10,000 above, which SeaweedFS takes for gRPC, are free too."""
    found: list[int] = []
    while len(found) < count:
        port = secrets.randbelow(20_000) + 20_000
        if port not in found and all(is_free(p) for p in (port, port + 10_000)):
            found.append(port)
    return found


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to keep the data; a temporary folder by default"
    )
    parser.add_argument("--port", type=int, default=8333)
    arguments = parser.parse_args()
    if not WEED.is_file():
        raise SystemExit("The S3 server is not installed. Type: make s3")
    with tempfile.TemporaryDirectory(prefix="fem-s3-") as temporary:
        server = S3Server(arguments.folder or Path(temporary), arguments.port)
        server.start()
        try:
            for name, value in server.environment.items():
                print(f"export {name}={value}")
            print(f"# then, for example: fem run configs/demo.yaml --store s3://{BUCKET}/demo", flush=True)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            assert server.process is not None
            server.process.wait()
        except KeyboardInterrupt:
            pass
        finally:
            server.stop()


if __name__ == "__main__":
    main()
