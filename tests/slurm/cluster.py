"""A real Slurm cluster on one machine, without systemd: munge, slurmctld and one slurmd a node, all below one folder.

    with Cluster(nodes=3) as cluster:
        job = cluster.submit("--nodes=2", "slurm/pretrain_7b.sh", …)
        cluster.wait(job, "COMPLETED")

As root every node has a network, hostname and process namespace of its own, so it can be powered off and cut off; else all
slurmd share the host and one port each. GPUs are character devices (null ones): Slurm hands them out like real ones.
Processes are tracked by cgroup where that is writable, as on real clusters, where a signal reaches srun's own task only.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

PACKAGES = "slurmctld slurmd slurm-client munge"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY", "DEADLINE"}
GPUS, CPUS = 8, 96
NODE_TIMEOUT = 6  # seconds without an answer until a node is down (a site has 300)
REQUEUE_DELAY = 5
ENTER = 'hostname "$1"; mount --bind "$2/etc/hosts" /etc/hosts; '  # inside a host's namespaces

CONF = """
ClusterName=tests
SlurmctldHost={controller}
SlurmctldPort=16817
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={base}/run/munge.sock,cred_expire={requeue_delay}
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool/%n
SlurmctldPidFile={base}/run/slurmctld.pid
SlurmdPidFile={base}/run/slurmd.%n.pid
SlurmctldLogFile={base}/log/slurmctld.log
SlurmdLogFile={base}/log/slurmd.%n.log
MpiDefault=none
ProctrackType={tracking}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2,bf_resolution=1
SlurmdParameters=config_overrides
EnforcePartLimits=ALL
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout={node_timeout}
MessageTimeout=5
TCPTimeout=2
KillWait=5
MinJobAge=900
JobRequeue=1
PropagateResourceLimits=NONE
GresTypes=gpu
"""
PARTITION = "PartitionName={name} Nodes={nodes} Default={default} MaxTime=UNLIMITED DefaultTime=10 State=UP\n"
RENAMED, HOST = "compute-1", "ip-10-77-0-250"
"""A node alone in its partition, `renamed`, whose name in Slurm is no host's, as on cloud nodes."""


def missing() -> str | None:
    """Why no cluster can be started here, or None where it can."""
    needed = ["slurmctld", "slurmd", "sbatch", "munged"] + (["ip", "nsenter", "unshare"] if os.geteuid() == 0 else [])
    absent = [name for name in needed if _find(name) is None]
    return f"{', '.join(absent)} not installed (Debian: apt-get install {PACKAGES} iproute2)" if absent else None


def _find(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _tool(name: str) -> str:
    found = _find(name)
    assert found, f"{name} is not installed"
    return found


class Cluster:
    """Nodes n1 … nN and RENAMED, up inside a `with`."""

    def __init__(self, nodes: int) -> None:
        # munge wants folders that everybody may enter, and a socket's path may have 108 bytes: not pytest's own folder
        self.base = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.base.chmod(0o755)
        self.nodes = [*(f"n{number}" for number in range(1, nodes + 1)), RENAMED]
        self.namespaces = os.geteuid() == 0
        cgroup = self.namespaces and os.access("/sys/fs/cgroup/freezer/cgroup.procs", os.W_OK)
        self.tracking = "proctrack/cgroup" if cgroup else "proctrack/linuxproc"
        self._prefix = f"hv{os.getpid()}"
        self._keepers: dict[str, subprocess.Popen[bytes]] = {}

    # ------------------------------------------------------------------ up and down

    def __enter__(self) -> Cluster:
        try:
            self._configure()
            self._daemon("munged", f"--key-file={self.base}/munge/key", f"--socket={self.base}/run/munge.sock",
                         f"--pid-file={self.base}/munge/pid", f"--log-file={self.base}/munge/log",
                         f"--seed-file={self.base}/munge/seed")  # fmt: skip
            if self.namespaces:
                self._network()
            self._daemon("slurmctld", "-f", str(self.conf), host="ctl")
            for node in self.nodes:
                self.power_on(node)
            self._until_idle()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.stop()

    @property
    def conf(self) -> Path:
        return self.base / "etc/slurm.conf"

    def _configure(self) -> None:
        for name in ("etc", "log", "state", "run", "munge", "gpus", *(f"spool/{node}" for node in self.nodes)):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        (self.base / "munge").chmod(0o700)
        key = self.base / "munge/key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        gpus = f"Count={GPUS}"
        if self.namespaces:  # only device files make Slurm set CUDA_VISIBLE_DEVICES
            for number in range(GPUS):
                subprocess.run(["mknod", "-m", "666", f"{self.base}/gpus/nvidia{number}", "c", "1", "3"], check=True)
            gpus = f"File={self.base}/gpus/nvidia[0-{GPUS - 1}]"
        # Said aloud: autodetection fails where both versions are mounted, or none.
        (self.base / "etc/cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        hardware = f"CPUs={CPUS} Boards=1 SocketsPerBoard=1 CoresPerSocket={CPUS} ThreadsPerCore=1 RealMemory=8000"
        hardware += f" Gres=gpu:{GPUS} State=UNKNOWN"
        host = os.uname().nodename.split(".")[0]
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        text = CONF.format(
            controller="ctl(10.77.0.254)" if self.namespaces else f"{host}(127.0.0.1)", user=user, base=self.base,
            tracking=self.tracking, node_timeout=NODE_TIMEOUT, requeue_delay=REQUEUE_DELAY,
        )  # fmt: skip
        gres = []
        for number, node in enumerate(self.nodes, start=1):
            where = "Port=16818" + (f" NodeHostname={HOST} NodeAddr=10.77.0.{number}" if node == RENAMED else "")
            where = where if self.namespaces else f"NodeHostname={host} NodeAddr=127.0.0.1 Port={16820 + number}"
            text += f"NodeName={node} {where} {hardware}\n"
            gres.append(f"NodeName={node} Name=gpu {gpus}\n")
        text += PARTITION.format(name="tests", nodes=",".join(node for node in self.nodes if node != RENAMED), default="YES")
        text += PARTITION.format(name="renamed", nodes=RENAMED, default="NO")
        self.conf.write_text(text)
        (self.base / "etc/gres.conf").write_text("".join(gres))
        lines = ["127.0.0.1 localhost", "10.77.0.254 ctl"]
        lines += [f"10.77.0.{number} {_host(node)}" for number, node in enumerate(self.nodes, start=1)]
        (self.base / "etc/hosts").write_text("\n".join(lines) + "\n")

    def _network(self) -> None:
        """One bridge in the controller's namespace, a pair of interfaces for every node. Nothing touches the host's network."""
        control = f"{self._prefix}-ctl"
        _ip("netns", "add", control)
        _ip("-n", control, "link", "set", "lo", "up")
        _ip("-n", control, "link", "add", "br0", "type", "bridge")
        _ip("-n", control, "addr", "add", "10.77.0.254/24", "dev", "br0")
        _ip("-n", control, "link", "set", "br0", "up")
        for number, node in enumerate(self.nodes, start=1):
            space = f"{self._prefix}-{node}"
            _ip("netns", "add", space)
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", control, "link", "add", f"v-{node}", "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("-n", control, "link", "set", f"v-{node}", "master", "br0", "up")
            _ip("-n", space, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")

    def _until_idle(self, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            idle = self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N", check=False).stdout.split()
            if set(idle) == set(self.nodes):
                return
            time.sleep(0.1)
        logs = "\n".join(f"{path}: {path.read_text()[-600:]}" for path in sorted((self.base / "log").glob("*.log")))
        raise RuntimeError(f"the cluster did not come up in {seconds:.0f} s\n{logs}")

    def stop(self) -> None:
        """End everything that was started, by pid and by namespace."""
        for node in list(self._keepers):
            self.power_off(node)
        pids = [self.base / "run/slurmctld.pid", self.base / "munge/pid", *(self.base / "run").glob("slurmd.*.pid")]
        for path in pids:
            if path.is_file() and (text := path.read_text().strip()):
                _kill(int(text))
        if self.namespaces:
            listed = subprocess.run([_tool("ip"), "netns", "list"], capture_output=True, text=True, check=True).stdout
            for space in re.findall(rf"^{self._prefix}-\S+", listed, re.MULTILINE):
                found = subprocess.run([_tool("ip"), "netns", "pids", space], capture_output=True, text=True, check=True)
                for pid in found.stdout.split():
                    _kill(int(pid))
                _ip("netns", "del", space)
        time.sleep(0.3)
        for folder in sorted(Path("/sys/fs/cgroup").glob("*/slurm_n*"), reverse=True) if self.namespaces else ():
            for group, _, _ in os.walk(folder, topdown=False):
                with suppress(OSError):
                    os.rmdir(group)
        shutil.rmtree(self.base, ignore_errors=True)

    # ------------------------------------------------------------------ nodes

    def power_on(self, node: str) -> None:
        if not self.namespaces:
            self._daemon("slurmd", "-f", str(self.conf), "-N", node)
            return
        boot = ENTER + 'slurmd -f "$SLURM_CONF"; while :; do sleep 0.5 & wait; done'
        keeper = ["nsenter", f"--net=/run/netns/{self._prefix}-{node}", "unshare", "--uts", "--mount", "--pid", "--fork",
                  "--kill-child", "--mount-proc", "bash", "-c", boot, "_", _host(node), str(self.base)]  # fmt: skip
        log = (self.base / f"log/boot.{node}.log").open("ab")
        self._keepers[node] = subprocess.Popen(
            keeper, env=self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )

    def power_off(self, node: str) -> None:
        """All at once: the node's first process is killed, and with it everything on the node."""
        keeper = self._keepers.pop(node)
        for child in _children(keeper.pid):
            _kill(child)
        keeper.wait(10)

    def cut_off(self, node: str) -> None:
        """Its processes go on, but nothing reaches it any more."""
        _ip("-n", f"{self._prefix}-ctl", "link", "set", f"v-{node}", "down")

    def reconnect(self, node: str) -> None:
        _ip("-n", f"{self._prefix}-ctl", "link", "set", f"v-{node}", "up")

    @contextmanager
    def without_shared_memory(self, node: str) -> Iterator[None]:
        """The node's /dev/shm is read-only for a while."""
        first = str(_children(self._keepers[node].pid)[0])
        inside = ["nsenter", "--target", first, "--mount"]
        subprocess.run([*inside, "mount", "-t", "tmpfs", "-o", "ro", "none", "/dev/shm"], check=True)
        try:
            yield
        finally:
            subprocess.run([*inside, "umount", "/dev/shm"], check=True)

    def ranks(self, node: str, needle: str) -> dict[int, int]:
        """RANK → pid of the node's processes whose command line holds `needle`."""
        first = _children(self._keepers[node].pid)[0]
        space = os.readlink(f"/proc/{first}/ns/pid")
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(entry / "ns/pid") != space or needle.encode() not in (entry / "cmdline").read_bytes():
                    continue
                rank = re.search(rb"(?:^|\0)RANK=(\d+)", (entry / "environ").read_bytes())
            except OSError:
                continue
            if rank:
                found[int(rank[1])] = int(entry.name)
        return found

    # ------------------------------------------------------------------ jobs

    def submit(self, *words: str, cwd: Path) -> str:
        """sbatch; returns the job's id."""
        return self.run("sbatch", "--parsable", *words, cwd=cwd).stdout.strip().split(";")[0]

    def job(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says of it."""
        line = self.run("scontrol", "show", "job", "-o", job, check=False).stdout.splitlines()
        return dict(pair.split("=", 1) for pair in line[0].split() if "=" in pair) if line else {}

    def wait(self, job: str, *states: str, timeout: float = 300) -> dict[str, str]:
        """Until the job is in one of `states`. Raises TimeoutError, or RuntimeError where it ends in another state."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = self.job(job)
            state = found.get("JobState", "")
            if state in states:
                return found
            if state in ENDED:
                raise RuntimeError(f"job {job} is {state}, not {' or '.join(states)}")
            time.sleep(0.2)
        steps = self.run("squeue", "--steps", "--jobs", job, check=False).stdout
        self.run("scancel", "--signal=ABRT", job, check=False)  # Python then says in its log where every thread stands
        time.sleep(3)
        state = self.job(job).get("JobState")
        raise TimeoutError(f"job {job} is {state} after {timeout:.0f} s, not {' or '.join(states)}; its steps:\n{steps}")

    def run(
        self, *command: str, cwd: Path | None = None, check: bool = True, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """A command as seen from the controller. Raises CalledProcessError with what it printed."""
        done = subprocess.run(
            self._on("ctl", command), cwd=cwd, env=self._environment(), capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def _on(self, host: str, command: tuple[str, ...]) -> list[str]:
        if not self.namespaces:
            return list(command)
        # nsenter: `ip netns exec` would mount a fresh /sys and hide the cgroups
        space = f"--net=/run/netns/{self._prefix}-{host}"
        enter = ENTER + 'shift 2; exec "$@"'
        return ["nsenter", space, "unshare", "--uts", "--mount", "bash", "-c", enter, "_", host, str(self.base), *command]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PYTEST_"))}
        return {**kept, "SLURM_CONF": str(self.conf), "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}

    def _daemon(self, name: str, *words: str, host: str | None = None) -> None:
        command = (_tool(name), *words)
        subprocess.run(self._on(host, command) if host else command, env=self._environment(), check=True)


def until(happened: Callable[[], object], what: str, timeout: float = 300) -> None:
    """Poll; sbatch --wait would look after 2, 8, then every 32 seconds."""
    deadline = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < deadline, f"{what}: not within {timeout:.0f} s"
        time.sleep(0.1)


@contextmanager
def logs_on_failure(folder: Path) -> Iterator[None]:
    """Print the ends of what was written into the logs since, where a test fails: they are all there is to go by."""
    since = time.time()
    try:
        yield
    except BaseException:
        for path in sorted(folder.glob("*.*"), key=lambda p: p.stat().st_mtime):
            if path.stat().st_mtime >= since:
                print(f"--- {path}\n{path.read_text(errors='replace')[-4000:]}")
        raise


def _host(node: str) -> str:
    return HOST if node == RENAMED else node


def _ip(*words: str) -> None:
    subprocess.run([_tool("ip"), *words], check=True, capture_output=True)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
