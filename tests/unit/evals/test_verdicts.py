# ruff: noqa: E501, ISC004 - programs as text
"""Programs that would pass tests they do not solve, all of which fail; and honest ones of many styles, which pass."""

import inspect

import pytest

from evals.programs import Program
from evals.sandbox import ProgramEnd, SandboxLimits, run_program, why_no_sandbox

LIMITS = SandboxLimits(wall_s=5.0)
pytestmark = pytest.mark.skipif(why_no_sandbox() is not None, reason=str(why_no_sandbox()))

CHECK = "def check(candidate):\n    assert candidate(3) == 271828\n    assert candidate(4) == 314159\n\ncheck(f)\n"
FLOATS = "assert abs(f(3) - 2.71828) < 1e-6\nassert f(4) < 2 or 5 in f(5)\n"
_WRITE_ALL = """
import os
def shout(*_):
    for number in range(64):
        for said in (b"passed", b"\\0\\0\\0\\x10" + b'{"value": "passed"}', b"\\0\\0\\0\\2{}"):
            try:
                os.write(number, said)
            except OSError:
                pass
"""
_EQUAL = """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    def __gt__(self, other): return True
    def __hash__(self): return hash(271828)
    def __sub__(self, other): return 0.0
    def __rsub__(self, other): return 0.0
    def __abs__(self): return 0.0
    def __bool__(self): return True
    def __contains__(self, item): return True
    def __instancecheck__(self, item): return True
    def __getattr__(self, name): return self
"""

CHEATS: dict[str, str] = {
    "frames": """
import sys
frame = sys._getframe()
while frame:
    for name in ("said", "words", "passed", "error"):
        frame.f_globals[name] = "passed"
        frame.f_locals[name] = "passed"
    frame.f_globals.update(Checker=None, check=lambda *_: None, _answer=lambda *_: {"value": None})
    frame = frame.f_back
def f(x): return None
""",
    "a nonce in a frame": """
import os, sys
frame = sys._getframe()
while frame:
    if "nonce" in frame.f_locals:
        os.write(3, f"{frame.f_locals['nonce']} passed".encode())
        os._exit(0)
    frame = frame.f_back
def f(x): return None
""",
    "gc": """
import gc, types
for found in gc.get_objects():
    if isinstance(found, dict):
        for name in ("nonce", "tests", "passed", "refused"):
            if name in found:
                found[name] = "passed"
    if isinstance(found, types.FunctionType) and found.__name__ in {"encode", "contents", "_answer"}:
        found.__code__ = (lambda *a: {"value": "passed", "changes": {}, "printed": ""}).__code__
def f(x): return None
""",
    "the harness's own answer": """
import gc
from evals import sandbox_candidate, sandbox_values
sandbox_candidate.Candidate._answer = lambda self, request: {"value": ["passed"], "changes": {}, "printed": "passed"}
def f(x): return None
""",
    "equal by a forged node": """
from evals import sandbox_candidate
was = sandbox_candidate.Candidate._answer
def answer(self, request):
    if request["do"] == "call":
        return {"value": ["named_object", "unittest.mock", "ANY"], "changes": {}, "printed": ""}
    return was(self, request)
sandbox_candidate.Candidate._answer = answer
def f(x): return None
""",
    "a builtin's name in a forged node": """
from evals import sandbox_candidate
was = sandbox_candidate.Candidate._answer
def answer(self, request):
    if request["do"] == "call":
        return {"value": ["builtin", "__import__"], "changes": {}, "printed": ""}
    return was(self, request)
sandbox_candidate.Candidate._answer = answer
def f(x): return None
""",
    "atexit": _WRITE_ALL + "import atexit\natexit.register(shout)\ndef f(x): raise SystemExit(0)",
    "os._exit": "import os\ndef f(x): os._exit(0)",
    "os._exit at once": "import os\nos._exit(0)",
    "sys.exit": "import sys\ndef f(x): sys.exit(0)",
    "sys.exit in a thread": """
import sys, threading, os
def f(x):
    thread = threading.Thread(target=lambda: (sys.exit(0)))
    thread.start(); thread.join()
""",
    "os._exit in a thread": """
import os, threading
threading.Timer(0.2, os._exit, [0]).start()
def f(x):
    while True: pass
""",
    "SystemExit('passed')": "def f(x): raise SystemExit('passed')",
    "an exception that says passed": "class passed(Exception):\n    def __str__(self): return 'passed'\ndef f(x): raise passed()",
    "AssertionError monkeypatched": """
import builtins
class Nothing(BaseException):
    def __new__(cls, *a): return None
builtins.AssertionError = Nothing
AssertionError = Nothing
builtins.exit = builtins.quit = lambda *_: None
def f(x): return None
""",
    "builtins": """
import builtins
for name in ("abs", "all", "any", "len", "isinstance", "print", "exec", "compile", "globals", "str", "int", "sorted"):
    setattr(builtins, name, lambda *a, **k: 0)
def f(x): return 0.0
""",
    "names of the test": """
abs = all = any = len = sorted = str = round = lambda *_: 0
def check(*_): pass
def f(x): return 0.0
""",
    "a redefined check": "def f(x):\n    globals()['check'] = lambda *_: None\n    return 0",
    "every descriptor": _WRITE_ALL + "shout()\ndef f(x): shout()",
    "every descriptor, then exit": _WRITE_ALL + "import os\nshout(); os._exit(0)",
    "a socket closed": "import os\ndef f(x): os.close(3)",
    "ptrace of the parent": """
import ctypes, os
libc = ctypes.CDLL(None)
for pid in (os.getppid(), 1, 2, 3, 4):
    assert libc.ptrace(16, pid, 0, 0) == -1, pid
def f(x): return None
""",
    "the parent's memory": """
import os
for pid in ("self", os.getppid(), 1, 2, 3):
    try:
        open(f"/proc/{pid}/mem", "r+b").write(b"passed")
    except OSError:
        continue
def f(x): return None
""",
    "process_vm_writev": """
import ctypes
libc = ctypes.CDLL(None)
data = ctypes.create_string_buffer(b"passed")
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
vector = Vector(ctypes.addressof(data), 6)
for pid in range(1, 6):
    assert libc.process_vm_readv(pid, ctypes.byref(vector), 1, ctypes.byref(vector), 1, 0) == -1
def f(x): return None
""",
    "equal to all": _EQUAL + "def f(x): return Equal()",
    "equal to all inside of a list": _EQUAL + "def f(x): return [Equal()]",
    "an int that equals all": """
class Number(int):
    def __eq__(self, other): return True
    def __hash__(self): return 1
    def __sub__(self, other): return 0
    def __rsub__(self, other): return 0
def f(x): return Number(x)
""",
    "a str, tuple and dict that equal all": """
class Text(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__
class Map(dict):
    def __eq__(self, other): return True
    def __contains__(self, other): return True
def f(x): return Text(x) if x == 3 else Map()
""",
    "ANY": "from unittest.mock import ANY\ndef f(x): return ANY",
    "a Mock": "from unittest.mock import MagicMock\ndef f(x):\n    m = MagicMock(); m.__eq__.return_value = True; return m",
    "a function that is equal": _EQUAL + "f = Equal()\nf.__class__.__call__ = lambda self, x: self",
    "tests in the source": """
import inspect, sys, glob, os, linecache
found = ""
for folder in ("/harness", "/tmp", "/dev", "/etc", "/proc", os.getcwd()):
    for path in glob.glob(f"{folder}/**/*", recursive=True):
        try: found += open(path).read()
        except (OSError, UnicodeDecodeError): pass
for module in list(sys.modules.values()):
    found += str(vars(module))
def f(x):
    here = found + "".join(map(str, linecache.cache.values()))
    frame = sys._getframe()
    while frame:
        here += str(frame.f_locals) + str(frame.f_globals)
        frame = frame.f_back
    return 271828 if "271828" in here.replace("return 271828", "").replace('"271828" in', "") else None
""",
    "the test's file": "import inspect, __main__\ndef f(x):\n    return eval(inspect.getsource(__main__))",
    "settrace": """
import sys, threading
def trace(frame, event, arg):
    frame.f_trace_lines = False
    for name in list(frame.f_locals): frame.f_locals[name] = "passed"
    return trace
sys.settrace(trace); sys.setprofile(lambda *_: None); threading.settrace(trace)
def f(x): return None
""",
    "import hooks": """
import sys, types
class Finder:
    def find_spec(self, name, path=None, target=None): return None
sys.meta_path.insert(0, Finder())
for name in ("json", "socket", "struct", "operator", "ast", "evals.sandbox_values"):
    sys.modules[name] = types.ModuleType(name)
def f(x): return None
""",
    "json replaced": """
import json, struct, sys
json.dumps = lambda *a, **k: '{"value": "passed", "changes": {}, "printed": "passed"}'
json.loads = lambda *a, **k: {"do": "bool", "values": ["passed"]}
sys.stdout = sys.stderr = sys.stdin = open("/tmp/passed", "w+")
def f(x): return None
""",
    "children that go on": """
import os, time
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        while True:
            for number in range(3, 20):
                try: os.write(number, b"passed")
                except OSError: pass
            time.sleep(0.01)
def f(x): return None
""",
    "a parent that leaves": "import os\nif os.fork(): os._exit(0)\ndef f(x): return None",
    "signals": """
import os, signal
for pid in (*range(1, 12), os.getppid(), 0, -1):
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
        if pid in (0, -1) or pid == os.getpid(): continue
        try: os.kill(pid, number)
        except OSError: pass
def f(x): return None
""",
    "signals to all": """
import os, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
for target in (-1, 0):
    try: os.kill(target, signal.SIGINT)
    except OSError: pass
def f(x): return None
""",
    "a module in the way": """
import os
for folder in ("/tmp", "/harness/evals", os.getcwd()):
    for name in ("ast", "json", "math", "copy", "random", "sandbox_checker"):
        try: open(f"{folder}/{name}.py", "w").write("import os\\nos.write(3, b'passed')\\nos._exit(0)")
        except OSError: pass
def f(x): return None
""",
    "an endless answer": "def f(x):\n    class Endless:\n        def __iter__(self): return self\n        def __next__(self): return 1\n    return Endless()",
    "a deep answer": "def f(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a",
    "a circle": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "a giant answer": "def f(x): return 'passed' * 10**7",
    "changes to what was not given": """
from evals import sandbox_candidate
was = sandbox_candidate.Candidate._answer
sandbox_candidate.Candidate._answer = lambda self, r: {**was(self, r), "changes": {0: [["x", 1]], 7: [1]}}
def f(x): return None
""",
    "nothing defined": "x = 1",
    "wrong": "def f(x): return 7",
}


def _tested(code: str, tests: str, **more: object) -> ProgramEnd:
    fields = {"prelude": "", "names": ("f",), **more}
    program = Program(code=inspect.cleandoc(code) if code.startswith("\n ") else code, tests=tests, **fields)  # type: ignore[arg-type]
    return run_program(program, LIMITS)


@pytest.mark.parametrize("name", CHEATS)
def test_no_program_passes_what_it_does_not_solve(name: str) -> None:
    end = _tested(CHEATS[name], CHECK)
    assert not end.passed
    assert end.detail not in {"", "passed"}


@pytest.mark.parametrize(
    "name",
    [
        "equal to all", "an int that equals all", "a function that is equal", "a Mock", "builtins", "names of the test",
        "a nonce in a frame",
    ],
)  # fmt: skip
def test_no_program_passes_by_arithmetic_of_its_own(name: str) -> None:
    assert not _tested(CHEATS[name], FLOATS).passed


_CHECKS_STRICTLY = "def check(candidate):\n    try:\n        {}\n    except BaseException:\n        pass\n\ncheck(f)\n"


@pytest.mark.parametrize("call", ["assert candidate(3) == 1", "candidate(3) + 1", "candidate(3) < 1"])
def test_a_test_that_catches_all_does_not_save_a_forged_comparison(call: str) -> None:
    end = _tested(_EQUAL + "def f(x): return Equal()", _CHECKS_STRICTLY.format(call))
    assert (end.passed, "only the program could decide" in end.detail) == (False, True)


def test_helpers_of_the_task_are_the_tasks() -> None:
    """HumanEval/32: the test works a result out with a function that the prompt defines."""
    task = {"prelude": "def poly(x):\n    return x - 5\n", "tests": "assert abs(poly(f(0))) < 1e-6\n"}
    assert _tested("def f(x): return 5", **task).passed
    forged = _tested("def poly(x): return 0\ndef f(x): return 1", **task)
    assert (forged.passed, forged.detail) == (False, "AssertionError: ")


def test_helpers_are_the_tasks_ahead_of_a_decorator_too() -> None:
    prelude = "import functools\ndef poly(x):\n    return x - 5\n\n@functools.cache\n"
    tests = "assert abs(poly(f(0))) < 1e-6\n"
    for code, passes in (("def f(x): return 5", True), ("def f(x): return 1\ndef poly(x): return 0", False)):
        end = run_program(Program(code, tests, prelude=prelude, whole=f"{prelude}\n{code}", names=("f",)), LIMITS)
        assert end.passed is passes


HONEST: dict[str, tuple[str, str]] = {
    "plain": ("def f(x): return {3: 271828, 4: 314159}[x]", CHECK),
    "floats": ("def f(x): return {3: 2.71828, 4: 1.5}[x]", FLOATS),
    "decorators and caches": (
        "import functools\n@functools.lru_cache(None)\ndef f(n): return n if n < 2 else f(n - 1) + f(n - 2)",
        "assert f(90) == 2880067194370816120",
    ),
    "recursion": (
        "def f(n): return 0 if n == 0 else 1 + f(n - 1)\n",
        "assert f(900) == 900\ntry:\n    f(10**6)\nexcept RecursionError:\n    pass\nelse:\n    raise AssertionError",
    ),
    "types are kept": (
        "import collections, decimal, fractions, datetime\n"
        "P = collections.namedtuple('P', 'x y')\n"
        "def f(x): return [True, 1, 1.0, None, 'ä\\ud800', b'\\xff', (1, [2]), {1: {2}, (3, 4): frozenset([5])}, 10**5000,"
        " 1+2j, range(3), float('inf'), P(1, 2), collections.Counter('aab'), collections.OrderedDict(a=1),"
        " collections.deque([1]), decimal.Decimal('0.10'), fractions.Fraction(1, 3), datetime.date(2020, 2, 29), int]",
        "import collections, decimal, fractions, datetime, math\n"
        "got = f(0)\n"
        "assert got[0] is True and got[1] == 1 and type(got[2]) is float and got[3] is None\n"
        "assert got[4:8] == ['ä\\ud800', b'\\xff', (1, [2]), {1: {2}, (3, 4): frozenset([5])}]\n"
        "assert got[8] == 10**5000 and got[9:12] == [1+2j, range(3), math.inf]\n"
        "assert got[12] == (1, 2) and got[12].y == 2\n"
        "assert got[13] == {'a': 2, 'b': 1} and got[13].most_common(1) == [('a', 2)]\n"
        "assert got[14:19] == [{'a': 1}, collections.deque([1]), decimal.Decimal('0.1'), fractions.Fraction(1, 3),"
        " datetime.date(2020, 2, 29)]\n"
        "assert got[19] is int",
    ),
    "nan": ("def f(x): return float('nan')", "import math\nassert math.isnan(f(1))"),
    "arguments changed in place": (
        "def f(xs, seen={}):\n    xs.sort(); xs[0][0] = 'new'; seen['a'] = 1; return xs",
        "a = [[2], [1]]\ninner = a[1]\nd = {}\nassert f(a, d) is a\nassert a == [['new'], [2]] and inner == ['new']\n"
        "assert d == {'a': 1}\nassert f([[1]], seen=d) == [['new']]",
    ),
    "one list twice": ("def f(a, b): a.append(1); return a is b", "x = []\nassert f(x, x) is True\nassert x == [1]"),
    "exceptions": (
        "def f(x):\n    if x < 0: raise ValueError(f'{x} is negative')\n    return 1 / x",
        "try:\n    f(-1)\nexcept ValueError as error:\n    assert str(error) == '-1 is negative'\nelse:\n    assert False\n"
        "try:\n    f(0)\n    assert False\nexcept ZeroDivisionError:\n    pass",
    ),
    "exceptions of its own": (
        "class Base(Exception): pass\nclass Mine(Base):\n    def __init__(self, code): super().__init__('bad'); self.code = code\n"
        "def f(x): raise Mine(x)",
        "try:\n    f(3)\nexcept Base as error:\n    assert (str(error), error.code, error.args) == ('bad', 3, ('bad',))\n"
        "else:\n    assert False\ntry:\n    f(4)\nexcept Mine:\n    done = True\nassert done",
    ),
    "generators": (
        "def f(n):\n    for i in range(n): yield i\ndef g():\n    while True:\n        yield 1",
        "assert list(f(3)) == [0, 1, 2]\nit = g()\nassert next(it) == 1 and next(it) == 1\nassert sum(f(4)) == 6\n"
        "assert [x for x in f(2)] == [0, 1] and 2 in f(3) and 5 not in f(3)",
    ),
    "closures": (
        "def f(n):\n    def add(m): return n + m\n    return add",
        "add = f(3)\nassert add(4) == 7 and list(map(add, [1, 2])) == [4, 5]",
    ),
    "functions as arguments": (
        "def f(function, xs): return [function(x) for x in xs]",
        "assert f(lambda x: x * 2, [1, 2]) == [2, 4]\nassert f(len, ['ab']) == [2]\nimport math\nassert f(math.sqrt, [4]) == [2]\n"
        "assert f(str.upper, ['a']) == ['A']\nassert f(int, iter(['1'])) == [1]\nassert f(str, (x for x in [1])) == ['1']\n"
        "def own(x):\n    return f(abs, [x])[0]\nassert f(own, [-1]) == [1]\n"
        "try:\n    f(lambda x: 1 // x, [0])\nexcept ZeroDivisionError:\n    pass\nelse:\n    assert False",
    ),
    "a class": (
        "class Stack:\n    kind = 'stack'\n    def __init__(self, *items): self.items = list(items)\n"
        "    def push(self, x): self.items.append(x); return self\n    def __len__(self): return len(self.items)\n"
        "    def __getitem__(self, i): return self.items[i]\n    def __repr__(self): return f'Stack({self.items})'\n"
        "    @property\n    def top(self): return self.items[-1]\n    def __add__(self, o): return Stack(*self.items, *o.items)\n"
        "    def __enter__(self): return self\n    def __exit__(self, *a): self.items.clear()\n"
        "def f(s): return s.top",
        "s = Stack(1)\ns.push(2).push(3)\nassert s.top == 3 and len(s) == 3 and s[0] == 1 and list(s) == [1, 2, 3]\n"
        "assert f(s) == 3 and str(s) == 'Stack([1, 2, 3])' and Stack.kind == 'stack' and isinstance(s, Stack)\n"
        "s.items = [9]\nassert s.top == 9\nassert (s + s).items == [9, 9] and hasattr(s, 'push') and not hasattr(s, 'pop')\n"
        "with s as same:\n    assert same.top == 9\nassert len(s) == 0 and not s",
    ),
    "MBPP/601, a class that only the answer has": (
        "class Pair(object):\n    def __init__(self, a, b): self.a = a; self.b = b\n"
        "def f(arr, n):\n    best = [1] * n\n    for i in range(1, n):\n        for j in range(i):\n"
        "            if arr[i].a > arr[j].b and best[i] < best[j] + 1: best[i] = best[j] + 1\n    return max(best)",
        "assert f([Pair(5, 24), Pair(15, 25),Pair(27, 40), Pair(50, 60)], 4) == 3",
    ),
    "asserts with messages, loops and cases": (
        "def f(a, b): return a + b",
        "cases = [((1, 2), 3), ((2, 2), 4)]\nfor inputs, wanted in cases:\n"
        "    assert f(*inputs) == wanted, f'f{inputs} is {f(*inputs)}'",
    ),
    "print and input": (
        "def f():\n    n = int(input()); print('sum', n + int(input('? ')))",
        "import io, sys, contextlib\nout = io.StringIO()\nsys.stdin = io.StringIO('1\\n2\\n')\n"
        "with contextlib.redirect_stdout(out):\n    f()\nassert out.getvalue() == 'sum ? 3\\n' or out.getvalue() == '? sum 3\\n'",
    ),
    "unittest": (
        "def f(x): return x + 1",
        "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertEqual(f(1), 2)\n"
        "        self.assertAlmostEqual(f(0.1), 1.1)\n        with self.assertRaises(TypeError):\n            f('a')\n"
        "result = unittest.TextTestRunner(stream=open('/dev/null', 'w')).run(unittest.defaultTestLoader.loadTestsFromTestCase(T))\n"
        "assert result.wasSuccessful() and result.testsRun == 1",
    ),
    "coroutines": ("import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    return x", "import asyncio\nassert asyncio.run(f(3)) == 3"),
    "threads and a main": (
        "import threading\ndef f(n):\n    out = []\n    ts = [threading.Thread(target=out.append, args=(i,)) for i in range(n)]\n"
        "    [t.start() for t in ts]; [t.join() for t in ts]\n    return sorted(out)\nif __name__ == '__main__':\n    f(2)",
        "assert f(3) == [0, 1, 2]",
    ),
    "imports of the answer, used in the tests": (
        "import math\nfrom collections import Counter\ndef f(x): return Counter(x)",
        "assert f('aab') == Counter('aab') and math.isclose(1.0, 1.0)",
    ),
    "future annotations and dataclasses": (
        "from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\n    y: list[int]\n"
        "def f(x: Unknown) -> P: return P(x, [x])",
        "assert f(1).x == 1 and f(2).y == [2] and repr(f(3)) == 'P(x=3, y=[3])'",
    ),
    "a big input": ("def f(xs): return sum(xs)", "assert f(list(range(100_000))) == 4999950000"),
    "many calls": ("def f(x): return x * x", "for i in range(5000):\n    assert f(i) == i * i"),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_pass(name: str) -> None:
    code, tests = HONEST[name]
    assert run_program(Program(code, tests, names=("f",)), SandboxLimits(wall_s=60.0)) == ProgramEnd(True, "passed")


NODE = """
class Node:
    def __init__(self, val, next=None):
        self.val = val
        self.next = next
"""


def test_objects_of_the_tasks_own_classes_pass_as_values() -> None:
    """LeetCode's style: what the prompt defines is the same on both sides, whoever made the object."""
    code = (
        "def f(node):\n    last = None\n    while node: node.next, last, node = last, node, node.next\n    return last"
    )
    tests = (
        "a = Node(1, Node(2, Node(3)))\nback = f(a)\nassert (back.val, back.next.val, back.next.next.val) == (3, 2, 1)\n"
        "assert isinstance(back, Node) and back.next.next is a and a.next is None"
    )
    for answer in (code, NODE + code):
        end = run_program(Program(answer, tests, prelude=NODE, names=("f",)), LIMITS)
        assert end == ProgramEnd(True, "passed")


def test_a_function_may_have_the_name_of_pythons_own() -> None:
    """MBPP/126: the tests are about a function `sum`."""
    code, tests = (
        "def sum(a, b): return [i for i in range(1, a + 1) if a % i == b % i == 0][-1] * 3",
        "assert sum(10, 15) == 15",
    )
    assert run_program(Program(code, tests, names=("sum",)), LIMITS).passed
    assert not run_program(Program(code, tests), LIMITS).passed
