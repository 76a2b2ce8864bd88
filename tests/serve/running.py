"""A server that the tests have started, and how they look into it."""

from dataclasses import dataclass

import httpx

from qvl.serve.app import Served
from qvl.serve.worker import Worker


@dataclass(frozen=True)
class Running:
    """A server and what is in it."""

    url: str
    served: Served
    worker: Worker

    def metric(self, name: str) -> float:
        lines = httpx.get(f"{self.url}/metrics", headers=self.headers).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    @property
    def headers(self) -> dict[str, str]:
        key = self.served.settings.api_key
        return {"Authorization": f"Bearer {key}"} if key else {}
