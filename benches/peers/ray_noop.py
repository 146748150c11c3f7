"""The peer of `job/noop`: Ray tasks that do nothing, on so many workers. `benches/benches/job.rs` starts it.

Says that it is ready, and then answers each line of its input, `batch`, `window` or `one`, with a line of JSON:
`batch` hands a thousand tasks over and waits for all of them, again and again; `window` keeps as many in flight as the
bench does; `one` waits for each. Exit status 3: Ray is not installed.
"""

import json
import sys
import time

WORKERS, IN_FLIGHT, SECONDS = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
BATCH = 1000

try:
    import ray
except ImportError:
    sys.exit(3)


@ray.remote(num_cpus=1, max_retries=0)
def noop():
    return None


def batch(end):
    done = 0
    while time.perf_counter() < end:
        ray.get([noop.remote() for _ in range(BATCH)])
        done += BATCH
    return done, []


def window(end):
    begun, times, done = {}, [], 0
    while True:
        now = time.perf_counter()
        while len(begun) < IN_FLIGHT and now < end:
            begun[noop.remote()] = time.perf_counter()
        if not begun:
            return done, times
        # All that are ready, and at least one.
        ready, _ = ray.wait(list(begun), num_returns=1)
        more, _ = ray.wait(list(begun), num_returns=len(begun), timeout=0)
        now = time.perf_counter()
        for ref in set(ready) | set(more):
            times.append(now - begun.pop(ref))
            done += 1


def one(end):
    times = []
    while time.perf_counter() < end:
        begin = time.perf_counter()
        ray.get(noop.remote())
        times.append(time.perf_counter() - begin)
    return len(times), times


def main():
    ray.init(num_cpus=WORKERS, include_dashboard=False, object_store_memory=80 << 20, logging_level="ERROR")
    # Its workers are there before anything is measured.
    ray.get([noop.remote() for _ in range(BATCH)])
    print(json.dumps({"ready": True, "version": ray.__version__}), flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        done, times = {"batch": batch, "window": window, "one": one}[line.strip()](begin + SECONDS)
        rate = done / (time.perf_counter() - begin)
        times.sort()
        p50 = times[len(times) // 2] * 1e6 if times else None
        print(json.dumps({"rate": rate, "p50_us": p50}), flush=True)
    ray.shutdown()


main()
