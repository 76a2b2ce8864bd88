"""What a server allows. Each value is a flag of `qvl serve`."""

from dataclasses import dataclass

from qvl.errors import UsageError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Settings:
    """Limits of one server; what goes beyond them is refused with the reason, before it costs anything.

    max_rows: answers made at once. max_waiting: requests that wait for a row. allow_urls: whether pictures are fetched
    from the network, from allowed_domains alone where there are some. log_prompts: whether texts go into the log.
    """

    name: str = "qvl"
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    max_rows: int = 16
    max_waiting: int = 64
    max_tokens: int | None = None  # of prompt and answer; None: the model's
    max_new_tokens: int = 1024  # where a request does not say
    max_body_bytes: int = 32 * 2**20
    max_images: int = 16
    max_image_bytes: int = 16 * 2**20
    max_pixels: int = 50_000_000
    max_n: int = 8
    max_stops: int = 4
    allow_urls: bool = False
    allowed_domains: tuple[str, ...] = ()
    fetch_timeout_s: float = 5.0
    log_prompts: bool = False

    def __post_init__(self) -> None:
        if self.host not in LOOPBACK and not self.api_key:
            raise UsageError(f"--host {self.host}: others can reach it there; give --api-key or QVL_API_KEY too")
        if self.allowed_domains and not self.allow_urls:
            raise UsageError("--allowed-domains: no picture is fetched without --allow-urls")
