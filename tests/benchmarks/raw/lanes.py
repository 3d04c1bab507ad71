"""What the raw loops share: lanes as threads or processes, and the clock around them."""

import json
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context


def run(lane: Callable[[int, int], int], lanes: int, processes: bool = False) -> None:
    """Run `lane(index, lanes)`, which returns its number of records, on every lane at once; print the result."""
    start = time.perf_counter()
    if lanes == 1:
        records = lane(0, 1)
    elif processes:
        with get_context("fork").Pool(lanes) as pool:
            records = sum(pool.starmap(lane, [(index, lanes) for index in range(lanes)]))
    else:
        records = _threads(lane, lanes)
    print(json.dumps({"records": records, "seconds": round(time.perf_counter() - start, 3)}), flush=True)


def _threads(lane: Callable[[int, int], int], lanes: int) -> int:
    results: list[int | BaseException] = [0] * lanes

    def work(index: int) -> None:
        try:
            results[index] = lane(index, lanes)
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=work, args=(index,)) for index in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = 0
    for result in results:
        if isinstance(result, BaseException):
            raise result
        total += result
    return total
