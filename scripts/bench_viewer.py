"""How long `mmor view` takes to show a second of a take, and what processor time and memory its server needs.

    python scripts/bench_viewer.py DATA TAKE [--far 40] [--seconds 1000]

In a browser (playwright and chromium), by its own clock, until all pictures of a second are painted: the first second,
with everything that the page loads before it; the second after it, whose pictures have been made and asked for
meanwhile; one far away, whose pictures have not; and seconds one after the other, each as soon as the one before is
seen. Then as many seconds as asked for are looked at one after the other, as playing does.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import psutil
from playwright.sync_api import Page, sync_playwright

REPEATS, STEPS = 5, 12
WAIT_S = 1.5  # between two looks, as somebody who plays
PAINTED = """
window.painted = (position) => new Promise((done) => {
  const look = () => document.body?.dataset.shown === String(position)
    ? requestAnimationFrame(() => setTimeout(() => done(performance.now()))) : requestAnimationFrame(look);
  look();
});
window.go = async (hash, position) => {
  const start = performance.now();
  location.hash = hash;
  return await painted(position) - start;
};
"""


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
        process = psutil.Process(server.pid)
        print(f"server before the first look: {process.memory_info().rss / 1e6:.0f} MB")
        try:
            in_browser(found[0], given.take, given.far, process)
            before = processor_time(process)
            looked = look(found[0], given.take, given.seconds)
            taken = 1000 * (processor_time(process) - before) / looked
            print(f"{looked} timepoints one after the other: {taken:.0f} ms of the server's processor time each")
            print(f"server after that: {process.memory_info().rss / 1e6:.0f} MB")
        finally:
            server.terminate()


def processor_time(process: psutil.Process) -> float:
    """What it has used, in s."""
    times = process.cpu_times()
    return times.user + times.system


def in_browser(address: str, take: str, far: int, server: psutil.Process) -> None:
    """The first second of a page, the next one, one far away, and some one after the other."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.add_init_script(PAINTED)
        page.goto(f"{address}#take={take}&at=0")
        print(f"first second in a browser, with its page: {page.evaluate('() => painted(0)') / 1000:.2f} s")
        times: dict[str, list[float]] = {"the timepoint after it": [], f"{far} timepoints on": []}
        at, before = 0, processor_time(server)
        for _ in range(REPEATS):
            for what, step in zip(times, (1, far)):
                page.wait_for_timeout(1000 * WAIT_S)
                at += step
                times[what].append(go(page, take, at))
        page.wait_for_timeout(1000 * WAIT_S)
        steps = times[f"{STEPS} one after the other, each"] = [go(page, take, at + step + 1) for step in range(STEPS)]
        for what, values in times.items():
            print(f"{what}: median {statistics.median(values):.0f} ms of {len(values)}, at most {max(values):.0f} ms")
        taken = 1000 * (processor_time(server) - before) / (2 * REPEATS + len(steps))
        print(f"server's processor time for each of these looks: {taken:.0f} ms")
        browser.close()


def go(page: Page, take: str, position: int) -> float:
    """How long it takes until all pictures of a position are painted, in ms."""
    return page.evaluate("([hash, position]) => go(hash, position)", [f"take={take}&at={position}", position])


def look(address: str, take: str, seconds: int) -> int:
    """Ask for timepoints one after the other, with all pictures of each. Returns how many."""
    of_take = f"{address}api/takes/{take}"
    with httpx2.Client(timeout=60) as client:
        count = len(client.get(of_take).json()["times"])
        for position in range(min(seconds, count)):
            for view in client.get(f"{of_take}/{position}?width=320").json()["views"]:
                client.get(f"{of_take}/{position}/views/{view['camera']}?width=320")
        client.get(f"{of_take}/timeline")
    return min(seconds, count)


if __name__ == "__main__":
    main()
