import logging
import os
import sys
import threading
import warnings

import pytest

from kacc.converters.chatter import to_log


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.DEBUG, logger="kacc.converters")
    return caplog


def test_everything_that_is_printed_goes_to_the_log(log, capfd):
    with to_log():
        os.write(2, b"from C++\n")
        print("from print")
        print("from print to stderr", file=sys.stderr)
        logging.getLogger("absl").warning("from absl")
        logging.warning("from no logger of its own")
        logging.getLogger("tensorflow").error("from tensorflow")
        warnings.warn("from a warning", stacklevel=1)
    for source in ("C++", "print", "print to stderr", "absl", "tensorflow"):
        assert f"from {source}" in log.messages
    assert "from no logger of its own" in log.messages
    assert "UserWarning: from a warning" in log.messages
    assert capfd.readouterr() == ("", "")


def test_streams_come_back_after_an_error(log, capfd):
    def fail():
        with to_log():
            print("inside")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    print("after")
    os.write(2, b"after too\n")
    assert capfd.readouterr() == ("after\n", "after too\n")
    assert log.messages == ["inside"]


def test_other_threads_keep_their_terminal(log, capsys):
    def progress():
        print("progress 1/2")
        print("progress 2/2", file=sys.stderr)
        logging.getLogger().error("from another thread")

    with to_log():
        thread = threading.Thread(target=progress)
        thread.start()
        thread.join()
    assert capsys.readouterr() == ("progress 1/2\n", "progress 2/2\n")
    assert log.record_tuples == [("root", logging.ERROR, "from another thread")]


def test_it_may_be_nested(log, capfd):
    with to_log():
        with to_log():
            print("inner")
        print("outer")
    assert log.messages == ["inner", "outer"]
    assert capfd.readouterr().out == ""


def test_a_log_handler_made_inside_goes_on_working(log, capsys):
    with to_log():
        handler = logging.StreamHandler()  # TensorFlow makes its own when first used
    handler.emit(logging.makeLogRecord({"msg": "later"}))
    assert capsys.readouterr().err == "later\n"


def test_the_streams_of_a_notebook_have_no_file_number(log, monkeypatch):
    class Stream:
        def write(self, text):
            return len(text)

        def flush(self):
            pass

    monkeypatch.setattr(sys, "stderr", Stream())
    with to_log():
        os.write(2, b"from C++\n")
        print("from print", file=sys.stderr)
    assert set(log.messages) == {"from C++", "from print"}
