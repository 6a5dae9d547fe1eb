"""Runs `keyloom run` on a copy of the quick start, sends it a synthetic click stream, and shows what happens.

Python's standard library only. Ends on Ctrl-C or after DEMO_SECONDS: then the engine drains, and the exit code is 0 if
everything went well. Its files stay in target/demo until the next run.
"""

import collections
import ctypes
import datetime
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

HOME = pathlib.Path("target/demo")
TOPOLOGY = pathlib.Path("config/quickstart.toml")
PORT = 8080
USERS = "5000"
# Seconds that starting (until the first event is applied, too) and draining may take, and that one request may.
START_MAX = 60
DRAIN_MAX = 60
REQUEST_MAX = 5
# In the demo a file is cut this often, so that there is something to see.
CUT_AGE = "5s"
# The engine is on loopback, where no proxy of the environment leads.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Failure(Exception):
    """Something went wrong; the text is for the person at the keyboard."""


class Enough(Exception):
    """A signal asked for the end."""


def stop(_signal, _frame):
    raise Enough


def say(text=""):
    print(text, flush=True)


def get(url):
    with DIRECT.open(url, timeout=REQUEST_MAX) as answer:
        return answer.read().decode()


def free_port(wanted):
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise Failure("no free port on 127.0.0.1")


def running(pid_file):
    try:
        os.kill(int(pid_file.read_text()), 0)
    except (OSError, ValueError):
        return False
    return True


def fresh_home():
    """An empty folder; a demo that still runs keeps its own."""
    if running(HOME / "pid"):
        HOME.parent.mkdir(exist_ok=True)
        return pathlib.Path(tempfile.mkdtemp(prefix="demo-", dir=HOME.parent))
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    return HOME


def write_topology(home, port):
    text = TOPOLOGY.read_text()
    text = re.sub(r"127\.0\.0\.1:8080", f"127.0.0.1:{port}", text)
    text = re.sub(r'(?m)^(cut\s*=.*\bage\s*=\s*)"[^"]*"', rf'\1"{CUT_AGE}"', text)
    path = home / "keyloom.toml"
    path.write_text(text)
    return path


PR_SET_PDEATHSIG = 1
prctl = getattr(ctypes.CDLL(None), "prctl", None)


def end_with_parent():
    """In a child: asks the system, where it can do that, for SIGTERM when this script is gone without having said so."""
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def start(home, name, command):
    """A process in a session of its own, so that Ctrl-C reaches this script only and the engine can drain in order."""
    with open(home / f"{name}.log", "wb") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )


def last_lines(home, name, lines=15):
    text = (home / f"{name}.log").read_text(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def wait_ready(engine, base, home):
    deadline = time.monotonic() + START_MAX
    while time.monotonic() < deadline:
        if engine.poll() is not None:
            raise Failure(f"the engine ended with exit code {engine.returncode}:\n{last_lines(home, 'engine')}")
        try:
            get(f"{base}/readyz")
            return
        except OSError:
            time.sleep(0.05)
    raise Failure(f"the engine was not ready after {START_MAX} s:\n{last_lines(home, 'engine')}")


def a_real_user(binary):
    """The user with most events among the first ones, if they came now: some users are away at some times."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    command = [binary, "generate", "--seed", "1", "--users", USERS, "--start", now, "--events", "500", "--to", "-"]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL).stdout.splitlines()
    return collections.Counter(json.loads(line)["domain_userid"] for line in lines).most_common(1)[0][0]


def metrics(base):
    """Sums over all series of a metric; of the events, those that have been applied."""
    sums = collections.Counter()
    try:
        text = get(f"{base}/metrics")
    except OSError as error:
        raise Failure(f"{base}/metrics does not answer: {error}") from error
    for line in text.splitlines():
        found = re.match(r"(keyloom_[a-z_]+)(\{[^}]*\})? (\S+)", line)
        if not found:
            continue
        name, labels, value = found.groups()
        if name != "keyloom_events_total" or 'outcome="applied"' in (labels or ""):
            sums[name] += float(value)
    return sums


def watch(engine, generator, base, home, seconds):
    """A progress line each second, for so many seconds after the first event. Returns how many events were applied."""
    terminal = sys.stdout.isatty()
    began = before = time.monotonic()
    events = 0
    limit = START_MAX
    while limit is None or time.monotonic() - began < limit:
        time.sleep(min(1.0, max(0.0, (limit or 1e9) - (time.monotonic() - began))))
        if engine.poll() is not None:
            raise Failure(f"the engine ended with exit code {engine.returncode}:\n{last_lines(home, 'engine')}")
        if generator.poll() not in (None, 0):
            raise Failure(f"the generator ended with exit code {generator.returncode}:\n{last_lines(home, 'generate')}")
        now, seen = time.monotonic(), metrics(base)
        applied = seen["keyloom_events_total"]
        line = (
            f"{applied:>10,.0f} events  {(applied - events) / (now - before):>7,.0f}/s"
            f"  {seen['keyloom_sessions_live']:>7,.0f} live sessions  lag {seen['keyloom_lag_events']:>5,.0f}"
            f"  {seen['keyloom_lake_files_total']:>4,.0f} lake files, {seen['keyloom_lake_rows_total']:,.0f} rows"
        )
        print(("\r" if terminal else "") + line, end="" if terminal else "\n", flush=True)
        if events == 0 and applied > 0:
            began, limit = now, seconds
        events, before = applied, now
    return events


def end(process, name, patience):
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        say(f"{name} did not end within {patience} s: killing it")
        process.kill()
        process.wait()


def check_feature(base, user):
    try:
        answer = json.loads(get(f"{base}/v1/features/{user}"))
    except (OSError, ValueError) as error:
        raise Failure(f"no features for user {user}: {error}") from error
    say(f"\n  user {user}: {answer['features'].get('event_count')} events, as of now")


def main():
    binary = os.path.abspath(sys.argv[1])
    seconds = float(os.environ["DEMO_SECONDS"]) if os.environ.get("DEMO_SECONDS") else None
    rate = os.environ.get("DEMO_RATE", "2000")
    if not os.access(binary, os.X_OK):
        raise Failure(f"{binary} is missing; `make demo` builds it")
    for ending in ENDINGS:
        signal.signal(ending, stop)

    home, port = fresh_home(), free_port(PORT)
    if port != PORT:
        say(f"port {PORT} is taken: using {port}")
    base = f"http://127.0.0.1:{port}"
    topology = write_topology(home, port)
    engine = generator = None
    try:
        engine = start(home, "engine", [binary, "run", str(topology)])
        (home / "pid").write_text(str(engine.pid))
        wait_ready(engine, base, home)
        user = a_real_user(binary)
        command = [binary, "generate", "--seed", "1", "--users", USERS, "--rate", rate, "--to", base]
        generator = start(home, "generate", command)
        say(f"""
  Keyloom is running, and {rate} events a second of a synthetic shop are on their way to it.

    features of one user   {base}/v1/features/{user}
    metrics                {base}/metrics
    the lake (Parquet)     {home}/lake       a file every {CUT_AGE} here, every 5 minutes as the quick start has it
    logs                   {home}/engine.log
    the topology           {topology}

  Ctrl-C ends it in order.
""")
        try:
            events = watch(engine, generator, base, home, seconds)
        except Enough:
            events = None
        if events == 0:
            raise Failure(f"no event was applied:\n{last_lines(home, 'generate')}\n{last_lines(home, 'engine')}")
        if events is not None:
            check_feature(base, user)
    except Enough:
        pass
    finally:
        # From here on the order of the end matters more than its speed.
        for ending in ENDINGS:
            signal.signal(ending, signal.SIG_IGN)
        say("\n  draining ...")
        end(generator, "the generator", REQUEST_MAX)
        end(engine, "the engine", DRAIN_MAX)
        (home / "pid").unlink(missing_ok=True)
    if engine is not None and engine.returncode != 0:
        raise Failure(f"the engine ended with exit code {engine.returncode}:\n{last_lines(home, 'engine')}")
    files = list((home / "lake").rglob("*.parquet"))
    say(f"  done: {len(files)} Parquet files in {home}/lake, read them with DuckDB, pyarrow or Athena")


if __name__ == "__main__":
    try:
        main()
    except Enough:
        sys.exit(130)
    except Failure as failure:
        print(f"demo: {failure}", file=sys.stderr)
        sys.exit(1)
