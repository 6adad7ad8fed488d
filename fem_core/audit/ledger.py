"""The manifests that an audit reads: each once, with the reason where one cannot be read.

Contract: reads and never raises for what is in the store; who asks for a manifest that is missing or torn gets None, and
``trouble`` says why. Problems are kept by digest, as many steps read the same ones.
"""

import json

from fem_core.errors import FemError
from fem_core.problems.problem import Problem, from_table
from fem_core.store import layout
from fem_core.store.manifest import Manifest, read_manifest
from fem_core.store.store import Store


class Ledger:
    """Manifests of one store by artifact."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.trouble: dict[str, str] = {}
        """Why an artifact has no manifest to read."""
        self.versions: dict[str, int] = {}
        """The schema version that each manifest was written with."""
        self._manifests: dict[str, Manifest | None] = {}
        self._problems: dict[str, dict[str, Problem]] = {}

    def manifest(self, artifact: str) -> Manifest | None:
        """The manifest of an artifact; None where there is none that can be read."""
        if artifact not in self._manifests:
            self._manifests[artifact] = self._read(artifact)
        return self._manifests[artifact]

    def producer(self, manifest: Manifest, role: str) -> Manifest | None:
        """The manifest of the input with this role."""
        for ref in manifest.inputs:
            if ref.role == role:
                return self.manifest(ref.artifact)
        return None

    def known(self, kind: str) -> list[Manifest]:
        """The manifests of a kind that were read so far."""
        return [manifest for manifest in self._manifests.values() if manifest is not None and manifest.kind == kind]

    def upstream(self, artifacts: list[str], but: str | None = None) -> list[str]:
        """These artifacts and all that they were made from, in any run of the store.

        Args:
            but: a role; inputs that have it are not followed.
        """
        found: dict[str, None] = {}
        todo = list(artifacts)
        while todo:
            artifact = todo.pop()
            if artifact in found:
                continue
            found[artifact] = None
            manifest = self.manifest(artifact)
            if manifest is not None:
                todo += [ref.artifact for ref in manifest.inputs if in_store(ref.artifact) and ref.role != but]
        return list(found)

    def problems(self, manifest: Manifest) -> dict[str, Problem]:
        """The problems of an artifact by id. Raises ``Corrupt`` when a file does not hold."""
        if manifest.digest not in self._problems:
            self._problems[manifest.digest] = {
                problem.problem_id: problem
                for table in self.store.iter_tables(manifest)
                for problem in from_table(table)
            }
        return self._problems[manifest.digest]

    def _read(self, artifact: str) -> Manifest | None:
        path = f"{artifact}/{layout.MANIFEST}"
        try:
            text = self.store.root.read(path)
            manifest = read_manifest(text, f"{self.store.url}/{path}")
        except (FileNotFoundError, NotADirectoryError):
            self.trouble[artifact] = "no manifest"
            return None
        except FemError as error:
            self.trouble[artifact] = str(error)
            return None
        self.versions[artifact] = json.loads(text)["schema_version"]
        return manifest


def in_store(artifact: str) -> bool:
    """Whether an input is an artifact of the store; others are outside sources such as a user's file."""
    return artifact.startswith(f"{layout.RUNS}/")
