"""What the package promises to whoever imports it, and the rules that its source keeps."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ppl_vae

ROOT = Path(ppl_vae.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = [name_of(path) for path in FILES if path.name != "__main__.py"]


def fresh(code):
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_name_resolves():
    for name in ppl_vae.__all__:
        assert getattr(ppl_vae, name) is not None
    assert set(ppl_vae.__all__) <= set(dir(ppl_vae))
    assert sorted(ppl_vae.__all__) == sorted(set(ppl_vae.__all__))
    assert re.fullmatch(r"\d+\.\d+\.\d+\w*", ppl_vae.__version__)


def test_type_checkers_see_what_is_imported():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (seen,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    imports = [node for node in seen.body if isinstance(node, ast.ImportFrom) and node.module != "typing"]
    found = {alias.asname: (node.module, alias.name) for node in imports for alias in node.names}
    assert sorted(found) == ppl_vae.__all__
    for name, (module, attribute) in found.items():
        if module == "ppl_vae":
            assert importlib.import_module(f"ppl_vae.{attribute}") is getattr(ppl_vae, name)
        else:
            assert getattr(importlib.import_module(module), attribute) is getattr(ppl_vae, name)


def test_the_contract_of_the_design():
    names = (
        "VAE Program Evidence History InputError ProgramError NonFiniteError fit sample reconstruct interpolate save "
        "load data evidence likelihoods networks plots posteriors priors"
    )
    assert set(names.split()) <= set(ppl_vae.__all__)
    assert callable(ppl_vae.evidence.importance)
    assert issubclass(ppl_vae.ProgramError, ppl_vae.InputError)
    assert issubclass(ppl_vae.InputError, ValueError)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ppl_vae.nothing  # noqa: B018
    with pytest.raises(ImportError):
        exec("from ppl_vae import nothing")  # noqa: S102


def test_names_are_the_same_objects_wherever_they_come_from():
    from ppl_vae.program import Program
    from ppl_vae.training import fit
    from ppl_vae.vae import VAE

    assert ppl_vae.VAE is VAE
    assert ppl_vae.Program is Program
    assert ppl_vae.fit is fit


def test_importing_the_package_does_not_import_torch():
    heavy = "('torch', 'pyro', 'matplotlib', 'sklearn', 'numpy', 'scipy', 'jsonargparse')"
    assert fresh(f"import sys, ppl_vae; print(*[m for m in {heavy} if m in sys.modules])") == []
    assert fresh("import sys, ppl_vae; ppl_vae.VAE; print('torch' in sys.modules)") == ["True"]


def test_importing_changes_nothing_in_the_process():
    """No draw, no figure backend, no validation flag, no default dtype, no parameter."""
    code = """
import torch, pyro, pyro.infer
def state():
    return (torch.get_rng_state().sum().item(), torch.initial_seed(), torch.get_default_dtype(),
            torch.get_num_threads(), torch.distributions.Distribution._validate_args, pyro.settings.get(),
            len(pyro.get_param_store()), torch.is_grad_enabled())
torch.manual_seed(0)
before = state()
import ppl_vae, ppl_vae.vae, ppl_vae.training, ppl_vae.generate, ppl_vae.persistence, ppl_vae.evidence, ppl_vae.data
after = state()
print(before == after)
"""
    assert fresh(code) == ["True"]


def test_every_module_imports():
    found = {module.name for module in pkgutil.walk_packages([str(ROOT)], "ppl_vae.")}
    assert found <= {*MODULES, "ppl_vae.__main__", "ppl_vae.cli.__main__"}  # each folder is a package
    for name in MODULES:
        importlib.import_module(name)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_exports(name):
    module = importlib.import_module(name)
    for exported in getattr(module, "__all__", []):
        assert hasattr(module, exported), exported


def undocumented(tree):
    """Public classes, functions and methods without a docstring, in the source (inherited ones do not count)."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

    def walk(node, prefix):
        for child in node.body:
            if not isinstance(child, kinds) or child.name.startswith("_"):
                continue
            overload = any("overload" in ast.unparse(item) for item in child.decorator_list)
            if ast.get_docstring(child) is None and not overload:
                yield prefix + child.name
            if isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}{child.name}.")

    return list(walk(tree, ""))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_everything_public_is_documented(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if tree.body:
        assert ast.get_docstring(tree), "a module without a docstring"
    assert undocumented(tree) == []


def test_everything_exported_is_documented():
    rooms = [getattr(ppl_vae, name) for name in ppl_vae.__all__ if inspect.ismodule(getattr(ppl_vae, name))]
    for room in [ppl_vae, *rooms]:
        for name in getattr(room, "__all__", []):
            value = getattr(room, name)
            if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value):
                assert (value.__doc__ or "").strip(), f"{room.__name__}.{name}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_assertion_stands_for_a_check(path):
    """`python -O` takes assertions away: what a user can do wrong is raised."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)] == []


FORBIDDEN = {"torch.load", "torch.save", "pyro.set_rng_seed", "torch.set_default_dtype", "np.load"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_unpickled_and_nothing_global_is_set(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            roots = {module.split(".")[0] for module in modules}
            assert not roots & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            called = ast.unparse(node.func)
            pickles = [keyword for keyword in node.keywords if keyword.arg == "allow_pickle"]
            assert all(isinstance(k.value, ast.Constant) and k.value.value is False for k in pickles)
            if called in ("np.load", "numpy.load"):
                assert pickles, f"line {node.lineno}: say allow_pickle=False"
            else:
                assert called not in FORBIDDEN, f"line {node.lineno}"
            assert called not in ("eval", "exec", "os.system"), f"line {node.lineno}"
