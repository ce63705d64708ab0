"""How long `mmor view` takes to show a second of a take, and what memory its server needs.

    python scripts/bench_viewer.py DATA TAKE [--far 40] [--seconds 1000]

In a browser (playwright and chromium): the first second, with everything that the page loads before it; the second
after it, whose pictures have been made meanwhile; one far away, whose pictures have not. Then as many seconds as asked
for are looked at one after the other, as playing does, and the memory of the server is told.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import psutil
from playwright.sync_api import Page, sync_playwright

REPEATS = 3
WAIT_S = 1.5  # between two looks, as somebody who plays


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("take", help="sample name, such as 004_PKA_MMOR")
    parser.add_argument("--far", type=int, default=40, help="timepoints, beyond all that is made ahead")
    parser.add_argument("--seconds", type=int, default=1000)
    given = parser.parse_args()
    command = [sys.executable, "-m", "mmor.cli", "view", given.take, "--data", str(given.data), "--no-browser"]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        told = server.stdout.readline()
        print(f"until the address is printed: {time.perf_counter() - started:.2f} s")
        found = re.match(r"http://\S+", told)
        assert found is not None, told
        memory = psutil.Process(server.pid)
        print(f"server before the first look: {memory.memory_info().rss / 1e6:.0f} MB")
        try:
            in_browser(found[0], given.take, given.far)
            look(found[0], given.take, given.seconds)
            print(f"server after {given.seconds} timepoints: {memory.memory_info().rss / 1e6:.0f} MB")
        finally:
            server.terminate()


def in_browser(address: str, take: str, far: int) -> None:
    """The first second of a page, the next one, and one far away."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        taken = timed(lambda: page.goto(f"{address}#take={take}&at=0"), page, 0)
        print(f"first second in a browser, with its page: {taken:.2f} s")
        times: dict[str, list[float]] = {"the timepoint after it": [], f"{far} timepoints on": []}
        at = 0
        for _ in range(REPEATS):
            for what, step in zip(times, (1, far)):
                page.wait_for_timeout(1000 * WAIT_S)
                at += step
                go = f"() => location.hash = 'take={take}&at={at}'"
                times[what].append(timed(lambda go=go: page.evaluate(go), page, at))
        for what, values in times.items():
            print(f"{what}: median {1000 * statistics.median(values):.0f} ms of {REPEATS}")
        browser.close()


def timed(act: Callable[[], object], page: Page, position: int) -> float:
    """How long it takes until all pictures of a position are seen, in s."""
    started = time.perf_counter()
    act()
    page.wait_for_selector(f"body[data-shown='{position}']", timeout=60_000)
    return time.perf_counter() - started


def look(address: str, take: str, seconds: int) -> None:
    """Ask for timepoints one after the other, with all pictures of each."""
    of_take = f"{address}api/takes/{take}"
    with httpx2.Client(timeout=60) as client:
        count = len(client.get(of_take).json()["times"])
        for position in range(min(seconds, count)):
            for view in client.get(f"{of_take}/{position}?width=320").json()["views"]:
                client.get(f"{of_take}/{position}/views/{view['camera']}?width=320")
        client.get(f"{of_take}/timeline")


if __name__ == "__main__":
    main()
