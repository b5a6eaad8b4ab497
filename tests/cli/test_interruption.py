import os
import signal
import subprocess
import sys

CODE = """
import os, pathlib, signal, tempfile
{before}
from kacc.cli.interruption import end_on_interrupt
from kacc.core.files import atomic_folder

end_on_interrupt()
print("half a line", end="")
with tempfile.TemporaryDirectory(dir="."), atomic_folder("new", "mark") as new:
    pathlib.Path(new, "mark").write_text("half")
    print(" of", len(os.listdir(".")), end="")
    try:
        {meanwhile}
        os.kill(os.getpid(), signal.SIGINT)
        print("never", end="")
    except BaseException:  # as TensorFlow does
        pass
print(" lost")
"""


def _run(folder, before="", meanwhile="pass"):
    return subprocess.run(
        [sys.executable, "-c", CODE.format(before=before, meanwhile=meanwhile)],
        cwd=folder,
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_ctrl_c_ends_also_where_exceptions_are_swallowed(tmp_path):
    process = _run(tmp_path)
    assert process.returncode == 130
    assert process.stdout == "half a line of 2"
    assert process.stderr == "kacc: interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_the_line_comes_where_errors_go_to_a_log_meanwhile(tmp_path):
    process = _run(tmp_path, meanwhile="os.dup2(os.open(os.devnull, os.O_WRONLY), 2)")
    assert process.stderr == "kacc: interrupted\n"


def test_a_ctrl_c_that_is_ignored_stays_so(tmp_path):
    process = _run(tmp_path, before="signal.signal(signal.SIGINT, signal.SIG_IGN)")
    assert process.returncode == 0
    assert process.stdout.endswith("never lost\n")
    assert os.listdir(tmp_path) == ["new"]
