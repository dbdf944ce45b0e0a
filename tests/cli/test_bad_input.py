"""Bad input: exit status 2, one line on standard error that names what is at fault, and nothing written."""

import gzip
import json
import os
import pickle
import shutil

import numpy as np
import pytest
from cli_helpers import TINY, snapshot

ARRAY = ["train", "--data", "array", "--path"]
MNIST = ["train", "--data", "mnist", "--data-dir"]

# A command line, and what the line on standard error must name. {here} is the folder of the test; the files and
# folders are made by `world` below.
CASES = {
    # the command line itself
    "no command": ("", "COMMAND"),
    "unknown command": ("trian", "'trian'"),
    "unknown option": ("train --epoch-number 3", "--epoch-number"),
    "abbreviated option": ("train --epo 3", "--epo"),
    "stray argument": ("train digits", "digits"),
    "option without value": ("train --latent-dim", "--latent-dim"),
    "no RUN": ("evidence", "run"),
    "resume and overwrite": ("train --resume --overwrite --out new", "--resume"),
    # numbers
    "latent dim is text": ("train --latent-dim many", "--latent-dim: expected an integer, received 'many'"),
    "latent dim is fractional": ("train --latent-dim 1.5", "--latent-dim"),
    "latent dim is zero": ("train --latent-dim 0", "--latent-dim"),
    "latent dim is negative": ("train --latent-dim -3", "--latent-dim"),
    "latent dim is a boolean": ("train --latent-dim true", "--latent-dim"),
    "latent dim is huge": ("train --latent-dim 1000000000000", "--latent-dim"),
    "full covariance is huge": ("train --latent-dim 1000000 --posterior MultivariateNormal", "--latent-dim"),
    "epochs are zero": ("train --epochs 0", "--epochs"),
    "epochs are fractional": ("train --epochs 2.5", "--epochs"),
    "batch size is negative": ("train --batch-size -1", "--batch-size"),
    "batch size is text": ("train --batch-size all", "--batch-size"),
    "lr is zero": ("train --lr 0", "--lr"),
    "lr is negative": ("train --lr -0.1", "--lr"),
    "lr is nan": ("train --lr .nan", "--lr"),
    "lr is infinite": ("train --lr .inf", "--lr"),
    "clip norm is zero": ("train --clip-norm 0", "--clip-norm"),
    "kl warmup is negative": ("train --kl-warmup -1", "--kl-warmup"),
    "patience is zero": ("train --patience 0", "--patience"),
    "seed is negative": ("train --seed -1", "--seed"),
    "seed is too large": ("train --seed 9223372036854775808", "--seed"),
    "data seed is fractional": ("train --data-seed 0.5", "--data-seed"),
    "threads are zero": ("train --threads 0", "--threads"),
    "threads are too many": ("train --threads 1000000", "--threads"),
    "hidden is text": ("train --hidden wide", "--hidden"),
    "hidden has text": ("train --hidden [200,wide]", "--hidden"),
    "hidden has a zero": ("train --hidden [200,0]", "--hidden"),
    "hidden is fractional": ("train --hidden 1.5", "--hidden"),
    "hidden is huge": ("train --hidden [10000000,10000000]", "--hidden"),
    "channels are negative": ("train --network ConvNet --network.channels [-3]", "--network.channels"),
    "components are zero": ("train --prior VampPrior --prior.components 0", "--prior.components"),
    "components are huge": ("train --prior VampPrior --prior.components 1000000000000", "--prior.components"),
    "components are fractional": ("train --prior VampPrior --prior.components 1.5", "--prior.components"),
    "total count is too small": (
        "train --view counts --likelihood Binomial --likelihood.total_count 9",
        "--data digits (train split): expected values on the support of Binomial (integers from 0 to 9)",
    ),
    "total count is huge": (
        "train --view counts --likelihood Binomial --likelihood.total_count 1000000000000000000000000000000",
        "--likelihood.total_count",
    ),
    "total count is missing": ("train --view counts --likelihood Binomial", "--likelihood.total_count"),
    "scale is unknown": (
        "train --view dequantised --likelihood Gaussian --likelihood.scale foo",
        "--likelihood.scale",
    ),
    "scale is negative": (
        "train --view dequantised --likelihood Gaussian --likelihood.scale -1",
        "--likelihood.scale",
    ),
    # names
    "unknown data set": ("train --data cifar", "--data"),
    "unknown view": ("train --view grey", "--view"),
    "unknown split": ("train --data mnist --data-dir mnist --split 70k", "--split"),
    "unknown prior": ("train --prior Foo", "--prior: expected MixtureOfGaussians, StandardNormal, VampPrior"),
    "unknown likelihood": ("train --likelihood Poissson", "--likelihood"),
    "unknown posterior": ("train --posterior Foo", "--posterior"),
    "unknown network": ("train --network Foo", "--network"),
    "unknown objective": ("train --objective Foo_ELBO", "--objective"),
    "unknown activation": ("train --activation tan", "--activation"),
    "unknown schedule": ("train --lr-schedule linear", "--lr-schedule"),
    "unknown compile": ("train --compile maybe", "--compile: expected one of 'auto', 'yes', 'no'"),
    "unknown compile of evidence": ("evidence run --compile maybe", "--compile"),
    "unknown compile of a sandwich": ("sandwich run --compile maybe", "--compile"),
    "unknown compile of the demo": ("demo --compile maybe", "--compile"),
    "quadrature is not compiled": (
        "evidence run --method quadrature --compile yes --out new",
        "--compile: expected auto or no",
    ),
    "unknown device": ("train --device tpu", "--device"),
    "device that is not there": ("train --device cuda:99", "--device"),
    "unknown option of a class": ("train --prior VampPrior --prior.component 3", "--prior.component"),
    "size that is supplied": ("train --prior VampPrior --prior.dim 3", "--prior.dim"),
    "option of another data set": ("train --data digits --split 50k", "--split"),
    "option of another file type": ("train --data array --path good.npy --key x", "--key"),
    "dynamic counts": ("train --view counts --dynamic true", "--dynamic"),
    "flat is no boolean": ("train --flat perhaps", "--flat"),
    "convolution of vectors": ("train --network ConvNet --flat true", "ConvNet"),
    # a user's own classes
    "module that is missing": ("train --prior no_such_module.MyPrior", "--prior"),
    "class that is missing": ("train --prior own_parts.Missing", "own_parts.Missing"),
    "class that is no prior": ("train --prior own_parts.NoPrior", "--prior"),
    "likelihood as a prior": ("train --prior own_parts.Geometric", "--prior"),
    "function as a prior": ("train --prior own_parts.function", "--prior"),
    "module with a syntax error": ("train --prior own_broken.MyPrior", "own_broken"),
    "class that raises": ("train --prior own_parts.Broken", "own_parts.Broken, which raised KeyError"),
    "class that raises when it runs": (
        "train --prior own_parts.Broken --prior.late true",
        "received ZeroDivisionError (own_parts.py line",
    ),
    "abstract class": ("train --prior ppl_vae.priors.Prior", "--prior"),
    "objective that is no ELBO": ("train --objective own_parts.WidePrior", "--objective"),
    # data
    "no path": ("train --data array", "--path"),
    "no such file": ("train --data array --path nothing.npy", "nothing.npy"),
    "folder as a file": ("train --data array --path mnist", "mnist"),
    "empty npy": ("train --data array --path empty.npy", "empty.npy"),
    "empty csv": ("train --data array --path empty.csv", "empty.csv"),
    "truncated npy": ("train --data array --path truncated.npy", "truncated.npy"),
    "truncated csv.gz": ("train --data array --path truncated.csv.gz", "truncated.csv.gz"),
    "pickled npy": ("train --data array --path pickled.npy", "pickled.npy"),
    "text npy": ("train --data array --path text.npy", "text.npy"),
    "vector": ("train --data array --path vector.npy", "vector.npy"),
    "no rows": ("train --data array --path norows.npy", "norows.npy"),
    "nan": ("train --data array --path nan.npy", "nan at datum 7, element 2"),
    "infinity": ("train --data array --path inf.npy", "inf at datum 5, element 0"),
    "complex numbers": ("train --data array --path complex.npy", "complex.npy"),
    "csv of words": ("train --data array --path words.csv", "words.csv"),
    "ragged csv": ("train --data array --path ragged.csv", "ragged.csv"),
    "npz without the key": ("train --data array --path two.npz --key c", "--key"),
    "npz that leaves it open": ("train --data array --path two.npz", "--key"),
    "labels of another length": ("train --data array --path two.npz --key a --labels-key b", "two.npz, b"),
    "unknown suffix": ("train --data array --path good.xlsx", "good.xlsx"),
    "image shape that does not fit": (
        "train --data array --path good.npy --image-shape [3,3]",
        "--image-shape",
    ),
    "fractions that leave nothing": (
        "train --data array --path good.npy --valid-fraction 0.5 --test-fraction 0.5",
        "--test-fraction",
    ),
    "fraction above one": ("train --data array --path good.npy --valid-fraction 1.5", "--valid-fraction"),
    "patience without validation": (
        "train --data array --path good.npy --valid-fraction 0 --patience 3",
        "--patience",
    ),
    "counts under Bernoulli": (
        "train --view counts --likelihood Bernoulli",
        "Binomial(total_count=16) or Poisson would fit",
    ),
    "grey under Bernoulli": (
        "train --data array --path grey.npy --likelihood Bernoulli",
        "grey.npy (train split): expected values on the support of Bernoulli (0 or 1)",
    ),
    "grey without a likelihood": ("train --data mnist --data-dir mnist --view none", "--likelihood"),
    "negative counts under Binomial": (
        "train --data array --path good.npy --likelihood Binomial --likelihood.total_count 4",
        "good.npy",
    ),
    "no data dir": ("train --data mnist --data-dir nowhere", "--data-dir"),
    "data dir without files": ("train --data mnist --data-dir hollow", "train-images-idx3-ubyte"),
    "truncated idx.gz": ("train --data mnist --data-dir mnist_cut", "train-images-idx3-ubyte.gz"),
    "wrong idx magic": ("train --data mnist --data-dir mnist_magic", "train-images-idx3-ubyte"),
    "static without files": (
        "train --data mnist --data-dir mnist --view static",
        "binarized_mnist_train.amat",
    ),
    # configuration files
    "no config": ("train --config nothing.yaml", "--config"),
    "config is no YAML": ("train --config garbage.yaml", "--config"),
    "config is binary": ("train --config good.npy", "--config"),
    "config is a list": ("train --config list.yaml", "--config"),
    "config is empty": ("train --config empty.yaml", "--config"),
    "config with an unknown key": ("train --config unknown.yaml", "'epoch'"),
    "config with a wrong type": ("train --config wrong.yaml", "--latent-dim"),
    # output
    "out is a file": ("train --out good.npy", "--out"),
    "out is below a file": ("train --out good.npy/run", "--out"),
    "out is a run": ("train --out run", "--out"),
    "out is somebody's folder": ("train --out mnist", "--out"),
    "overwrite somebody's folder": ("train --out mnist --overwrite", "--out"),
    "resume of another run": ("train --out run --resume --latent-dim 3", "--latent-dim"),
    "resume with another class": (
        "train --config run/config.yaml --prior VampPrior --out run --resume",
        "--prior",
    ),
    "resume of a garbled config": ("train --out garbled --resume", "garbled/config.yaml"),
    "resume with another run's checkpoint": (
        "train --config run/config.yaml --out swapped --resume",
        "swapped/checkpoint.safetensors",
    ),
    "resume with a pickled checkpoint": (
        "train --config run/config.yaml --out pickled_run --resume",
        "pickled_run/checkpoint.safetensors",
    ),
    "demo in a run that is no demo": ("demo --out run", "--out"),
    "demo in somebody's folder": ("demo --out mnist", "--out"),
    "demo with a bad seed": ("demo --seed -1", "--seed"),
    # evidence
    "no such run": ("evidence nowhere", "nowhere"),
    "run is a file": ("evidence good.npy", "good.npy"),
    "run is no run": ("evidence mnist", "mnist"),
    "run is unfinished": ("evidence unfinished", "vae.safetensors"),
    "model is a pickle": ("evidence pickled_run", "pickled_run/vae.safetensors"),
    "model is cut short": ("evidence truncated", "truncated/vae.safetensors"),
    "model is another file": ("evidence other_file", "other_file/vae.safetensors"),
    "model of other data": ("evidence other_model", "other_model/vae.safetensors"),
    "data have changed": ("evidence changed", "changed"),
    "run's data.json is garbage": ("evidence bad_json", "bad_json/data.json"),
    "run's config is garbage": ("evidence bad_config", "bad_config/config.yaml"),
    "run's config lacks a key": ("evidence poor_config", "poor_config/config.yaml"),
    "samples are zero": ("evidence run --num-samples 0", "--num-samples"),
    "samples are fractional": ("evidence run --num-samples 1.5", "--num-samples"),
    "samples are negative": ("evidence run --num-samples -5", "--num-samples"),
    "unknown evidence split": ("evidence run --split training", "--split"),
    "subset is too large": ("evidence run --subset 251", "--subset"),
    "subset is zero": ("evidence run --subset 0", "--subset"),
    "unknown method": ("evidence run --method hmc", "--method"),
    "evidence seed": ("evidence run --seed -1", "--seed"),
    "evidence out is a file": ("evidence run --out good.npy", "--out"),
    "evidence out is somebody's": ("evidence run --out mnist", "--out"),
    "evidence out exists": ("evidence run --out estimate", "--out"),
    "evidence resumed with another seed": (
        "evidence run --num-samples 32 --subset 3 --out estimate --resume --seed 5",
        "--seed: expected 0",
    ),
    # evidence by other methods
    "chains are zero": ("evidence run --method annealed --num-chains 0", "--num-chains"),
    "chains are text": (
        "evidence run --method annealed --num-chains few",
        "--num-chains: expected an integer",
    ),
    "steps are negative": ("evidence run --method smc --num-steps -1", "--num-steps"),
    "unknown start": ("evidence run --method annealed --start posterior", "--start"),
    "unknown annealing schedule": ("evidence run --method smc --schedule cosine", "--schedule"),
    "particles are zero": ("evidence run --method smc --num-particles 0", "--num-particles"),
    "particles and islands": (
        "evidence run --method smc --num-particles 10 --num-islands 4",
        "--num-particles: expected a multiple of --num-islands 4, received 10",
    ),
    "islands are fractional": ("evidence run --method smc --num-islands 0.5", "--num-islands"),
    "nodes are zero": ("evidence run --method quadrature --nodes 0", "--nodes"),
    "nodes are odd": ("evidence run --method quadrature --nodes 17", "--nodes: expected a multiple of"),
    "unknown rule": ("evidence run --method quadrature --rule simpson", "--rule"),
    "quadrature of many dimensions": (
        "evidence deep --method quadrature",
        "--method quadrature: expected 1 to 3 latent dimensions",
    ),
    "jackknife of order 3": ("evidence run --method jackknife --order 3", "--order: expected 1 or 2"),
    "jackknife of order 0": ("evidence run --method jackknife --order 0", "--order"),
    "jackknife of few samples": (
        "evidence run --method jackknife --num-samples 2 --order 2",
        "--num-samples: expected an integer above 2",
    ),
    "option of another method": (
        "evidence run --num-chains 4",
        "--num-chains: expected none with --method importance (it belongs to annealed)",
    ),
    "proposal with annealing": ("evidence run --method annealed --proposal widened", "--proposal"),
    "unknown draws": ("evidence run --draws halton", "--draws"),
    "scrambles without sobol": (
        "evidence run --draws.scrambles 4",
        "--draws.scrambles: expected a --draws whose",
    ),
    "one scramble": (
        "evidence run --draws sobol --draws.scrambles 1",
        "--draws.scrambles: expected at least 2",
    ),
    "proposal with sobol": (
        "evidence run --draws sobol --proposal widened",
        "--proposal: expected Guide() with draws=Sobol(...), received Widened(scale=1.2",
    ),
    "target with sobol": (
        "evidence run --draws sobol --draws.target 0.1",
        "--draws.target: expected an option that",
    ),
    "target is zero": (
        "evidence run --draws until-stderr --draws.target 0",
        "--draws.target: expected a positive",
    ),
    "target is nan": ("evidence run --draws until-stderr --draws.target .nan", "--draws.target"),
    "target is text": (
        "evidence run --draws until-stderr --draws.target small",
        "--draws.target: expected a number, received 'small'",
    ),
    "no target": ("evidence run --draws until-stderr", "--draws.target: expected a value, which is needed"),
    "samples with a target": (
        "evidence run --draws until-stderr --draws.target 0.1 --num-samples 999",
        "--num-samples: expected none with draws=UntilStderr(...), received 999",
    ),
    "draws of the prior are negative": (
        "evidence run --prior-draws -1",
        "--prior-draws: expected an integer",
    ),
    "draws of the prior with sobol": (
        "evidence run --draws sobol --prior-draws 9",
        "--prior-draws: expected 0 with draws=Sobol(...), received 9",
    ),
    "draws of the prior with a target": (
        "evidence run --draws until-stderr --draws.target 0.1 --prior-draws 9",
        "--prior-draws: expected 0 with draws=UntilStderr(...), received 9",
    ),
    "draws of the prior with psis": ("evidence run --method psis --prior-draws 9", "--prior-draws"),
    "most samples without target": (
        "evidence run --draws.most 100",
        "--draws.most: expected a --draws whose option it is",
    ),
    "most samples are zero": (
        "evidence run --draws until-stderr --draws.target 0.1 --draws.most 0",
        "--draws.most: expected a positive integer",
    ),
    "unknown proposal": ("evidence run --proposal narrowed", "--proposal: expected guide, defensive"),
    "proposal without value": ("evidence run --proposal", "--proposal"),
    "option of no proposal": (
        "evidence run --proposal.df 3",
        "--proposal.df: expected a --proposal whose option it is",
    ),
    "unknown option of a proposal": ("evidence run --proposal widened --proposal.df 3", "--proposal.df"),
    "proposal's option is text": (
        "evidence run --proposal student-t --proposal.df few",
        "--proposal.df: expected a number, received 'few'",
    ),
    "proposal's option is zero": ("evidence run --proposal student-t --proposal.df 0", "--proposal.df"),
    "proposal's share is one": ("evidence run --proposal defensive --proposal.alpha 1", "--proposal.alpha"),
    "proposal that is none": ("evidence run --proposal own_parts.NoPrior", "'own_parts.NoPrior'"),
    "proposal that is missing": ("evidence run --proposal own_parts.Missing", "own_parts.Missing"),
    "proposal's module is missing": ("evidence run --proposal no_such_module.Mine", "no_such_module"),
    "proposal that raises": (
        "evidence run --proposal own_parts.Picky --proposal.late false",
        "own_parts.Picky, which raised KeyError",
    ),
    "proposal whose bind raises": (
        "evidence run --proposal own_parts.Picky",
        "ZeroDivisionError: in my bind",
    ),
    "proposal that binds nothing": (
        "evidence run --proposal own_parts.Unbound",
        "own_parts.Unbound(), whose bind returned None",
    ),
    "evidence resumed by another method": (
        "evidence run --method psis --num-samples 32 --subset 3 --out estimate --resume",
        "--method: expected 'importance'",
    ),
    # sandwich
    "sandwich of no run": ("sandwich nowhere", "nowhere"),
    "sandwich without run": ("sandwich", "run"),
    "unknown sandwich method": ("sandwich run --method smc", "--method"),
    "sandwich of no data": ("sandwich run --num-data 0", "--num-data"),
    "sandwich of fractional data": ("sandwich run --num-data 1.5", "--num-data"),
    "sandwich of more real data": (
        "sandwich run --real --num-data 251",
        "--num-data: expected at most the 250",
    ),
    "samples with annealing": ("sandwich run --num-samples 10", "--num-samples: expected none with"),
    "chains with importance": ("sandwich run --method importance --num-chains 2", "--num-chains"),
    "one sample": ("sandwich run --method importance --num-samples 1", "--num-samples: expected at least 2"),
    "unknown sandwich start": ("sandwich run --start posterior", "--start"),
    "unknown sandwich schedule": ("sandwich run --schedule burda", "--schedule"),
    "sandwich seed": ("sandwich run --seed -1", "--seed"),
    "sandwich in somebody's folder": ("sandwich run --out mnist", "--out"),
    "sandwich in an estimate": ("sandwich run --out estimate --overwrite", "--out"),
    "sandwich exists": ("sandwich run --out bounds", "bounds (exists)"),
    "sandwich resumed with other data": (
        "sandwich run --method importance --num-samples 8 --num-data 4 --out bounds --resume",
        "--num-data: expected 3",
    ),
    "sandwich resumed as heuristic": (
        "sandwich run --method importance --num-samples 8 --num-data 3 --out bounds --resume --real",
        "--real: expected False",
    ),
    # gaps
    "gaps of no run": ("gaps nowhere", "nowhere"),
    "gaps of one datum": ("gaps run --subset 1", "--subset"),
    "gaps of too many data": ("gaps run --subset 251", "--subset"),
    "gaps of one sample": ("gaps run --num-samples 1", "--num-samples"),
    "unknown gaps method": ("gaps run --method quadrature", "--method"),
    "chains without annealing": ("gaps run --num-chains 4", "--num-chains: expected none with"),
    "gaps of unknown split": ("gaps run --split all", "--split"),
    "gaps seed": ("gaps run --seed 9223372036854775808", "--seed"),
    "gaps out is a file": ("gaps run --out good.npy", "--out"),
    "gaps and somebody's folder": ("gaps run --out run", "--out"),
    "gaps with bad threads": ("gaps run --threads 0", "--threads"),
    # validate
    "unknown model": ("validate --models coin", "--models: expected one of 'linear-gaussian-2'"),
    "unknown estimator": ("validate --estimators importance", "--estimators: expected one of"),
    "no models": ("validate --models", "--models: expected a value, received none"),
    "repetitions are zero": ("validate --repetitions 0", "--repetitions"),
    "repetitions are fractional": ("validate --repetitions 2.5", "--repetitions"),
    "data of a model are negative": ("validate --num-data -1", "--num-data"),
    "validation seed": ("validate --seed -1", "--seed"),
    "validation threads": ("validate --threads 0", "--threads"),
    "validation has no device": ("validate --device cpu", "--device"),
    "model without a module": ("validate --model coin", "--model: expected the import path of an ExactModel"),
    "model that is missing": ("validate --model own_parts.dice", "'own_parts.dice'"),
    "model in no module": ("validate --model no_such_module.coin", "No module named 'no_such_module'"),
    "model in a broken module": ("validate --model own_broken.coin", "'own_broken.coin'"),
    "model that is a number": ("validate --model own_parts.THREE", "'own_parts.THREE' (3)"),
    "model that is an estimator": ("validate --model own_parts.fewer", "'own_parts.fewer' ("),
    "model that returns a number": ("validate --model own_parts.returns_a_number", "which returned 3"),
    "estimator that is missing": ("validate --estimator own_parts.more", "'own_parts.more'"),
    "estimator that is a model": (
        "validate --estimator own_parts.ready",
        "--estimator: expected the import path",
    ),
    "estimator of two arguments": (
        "validate --estimator own_parts.one_too_few",
        "too many positional arguments",
    ),
    "estimator that returns a number": (
        "validate --models mixture --estimator own_parts.returns_a_number",
        "'own_parts.returns_a_number', which returned 3",
    ),
    "validation in somebody's folder": ("validate --models mixture --out mnist", "--out"),
    "validation in a run": ("validate --models mixture --out run --overwrite", "--out"),
    # pictures
    "picture exists": ("sample run --out old.png", "--out"),
    "picture is a folder": ("sample run --out mnist", "--out"),
    "picture of unknown type": ("sample run --out samples.bmp", "--out"),
    "picture of no images": ("sample vectors --out samples.png", "--out"),
    "picture below a file": ("sample run --out good.npy/samples.png", "--out"),
    "sample of no run": ("sample mnist --out s.png", "mnist"),
    "no samples": ("sample run --num 0 --out s.png", "--num"),
    "too many reconstructions": ("reconstruct run --num 251 --out r.png", "--num"),
    "reconstruct exists": ("reconstruct run --out old.png", "--out"),
    "reconstruct of unknown split": ("reconstruct run --split all --out r.png", "--split"),
    "one step": ("interpolate run --steps 1 --out i.png", "--steps"),
    "too many pairs": ("interpolate run --pairs 126 --out i.png", "--pairs"),
    "pairs are text": ("interpolate run --pairs few --out i.png", "--pairs"),
}


@pytest.fixture(scope="session")
def world(tmp_path_factory, trained):
    """A folder full of good and bad files, for all cases: none may change it."""
    here = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    good = rng.normal(size=(40, 4)).round(3)
    np.save(here / "good.npy", good)
    np.save(here / "grey.npy", rng.uniform(size=(40, 4)))
    np.save(here / "vector.npy", good[:, 0])
    np.save(here / "norows.npy", good[:0])
    np.save(here / "complex.npy", good + 1j)
    np.save(here / "text.npy", np.array([["a", "b"]] * 9))
    np.save(here / "pickled.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    for name, value, where in (("nan", np.nan, (7, 2)), ("inf", np.inf, (5, 0))):
        bad = good.copy()
        bad[where] = value
        np.save(here / f"{name}.npy", bad)
    np.savez(here / "two.npz", a=good, b=np.arange(3))
    (here / "empty.npy").write_bytes(b"")
    (here / "empty.csv").write_bytes(b"")
    (here / "good.xlsx").write_bytes(b"PK")
    (here / "truncated.npy").write_bytes((here / "good.npy").read_bytes()[:200])
    (here / "truncated.csv.gz").write_bytes(gzip.compress(b"1,2\n" * 500)[:-12])
    (here / "words.csv").write_text("a,b\n1,2\n3,four\n")
    (here / "ragged.csv").write_text("1,2\n3,4,5\n")
    (here / "old.png").write_bytes(b"a picture")
    for name, text in {
        "garbage": "prior: [}\n\tx",
        "list": "- 1\n- 2\n",
        "empty": "",
        "unknown": "epoch: 3\n",
        "wrong": "latent_dim: many\n",
    }.items():
        (here / f"{name}.yaml").write_text(text)
    _mnist(here / "mnist")
    (here / "hollow").mkdir()
    for name in ("mnist_cut", "mnist_magic"):
        shutil.copytree(here / "mnist", here / name)
        images = here / name / "train-images-idx3-ubyte"
        content = images.read_bytes()
        images.unlink()
        if name == "mnist_cut":
            (here / name / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content)[:-20])
        else:
            images.write_bytes(b"\x00\x00\x0b" + content[3:])
    _runs(here, trained)
    return here


def _mnist(folder):
    folder.mkdir()
    rng = np.random.default_rng(1)
    for part, n in (("train", 12), ("t10k", 4)):
        header = b"\x00\x00\x08\x03" + b"".join(k.to_bytes(4, "big") for k in (n, 5, 5))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            header + rng.integers(0, 256, n * 25, np.uint8).tobytes()
        )
        header = b"\x00\x00\x08\x01" + n.to_bytes(4, "big")
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes(n))


def _runs(here, trained):
    from ppl_vae.cli import main

    names = (
        "run",
        "unfinished",
        "pickled_run",
        "truncated",
        "other_file",
        "other_model",
        "changed",
        "bad_json",
    )
    for name in (*names, "bad_config", "poor_config", "swapped", "garbled"):
        shutil.copytree(trained, here / name)
    for name in ("vae", "checkpoint"):
        (here / f"pickled_run/{name}.safetensors").write_bytes(pickle.dumps({"a": 1}))
    (here / "unfinished/vae.safetensors").unlink()
    model = (trained / "vae.safetensors").read_bytes()
    (here / "truncated/vae.safetensors").write_bytes(model[: len(model) // 2])
    shutil.copy(trained / "checkpoint.safetensors", here / "other_file/vae.safetensors")
    data = json.loads((trained / "data.json").read_text())
    (here / "changed/data.json").write_text(json.dumps(data | {"test_sha256": "0" * 64}))
    (here / "bad_json/data.json").write_text("{")
    (here / "bad_config/config.yaml").write_text("a: [}")
    (here / "poor_config/config.yaml").write_text("data: digits\n")
    (here / "garbled/config.yaml").write_text("\x00\x01: [")
    options = ["--data", "array", "--path", str(here / "good.npy"), *TINY]
    assert main(["train", *options, "--out", str(here / "vectors")]) == 0
    for name, target in (("vae", "other_model"), ("checkpoint", "swapped")):
        shutil.copy(here / f"vectors/{name}.safetensors", here / f"{target}/{name}.safetensors")
    bounds = [
        "--method",
        "importance",
        "--num-samples",
        "8",
        "--num-data",
        "3",
        "--out",
        str(here / "bounds"),
    ]
    assert main(["sandwich", str(here / "run"), *bounds]) == 0
    deep = ["train", *TINY, "--latent-dim", "4", "--epochs", "1", "--out", str(here / "deep")]
    assert main(deep) == 0
    estimate = [
        "evidence",
        str(here / "run"),
        "--num-samples",
        "32",
        "--subset",
        "3",
        "--out",
        str(here / "estimate"),
    ]
    assert main(estimate) == 0


@pytest.fixture
def in_world(world, own, monkeypatch):
    """The world as the current folder, a user's own file beside it on the path."""
    monkeypatch.syspath_prepend(str(own))
    monkeypatch.chdir(world)
    return world


@pytest.mark.parametrize("name", CASES)
def test_bad_input(call, in_world, name):
    line, named = CASES[name]
    argv = line.split()
    if argv[:1] in (["train"], ["validate"]) and "--out" not in argv:
        argv += ["--out", "new"]
    before = snapshot(in_world)
    result = call(*argv)
    assert result.status == 2, result
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("ppl-vae"), result.err
    assert ": error: " in result.err
    assert named in result.err
    assert "Traceback" not in result.err
    assert "<class" not in result.err
    assert len(result.err) < 500
    assert result.out == ""
    assert snapshot(in_world) == before


def test_there_are_enough_cases():
    assert len(CASES) >= 60
    assert len({line for line, _ in CASES.values()}) == len(CASES)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_cannot_be_written(call, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    result = call("train", *TINY, "--out", tmp_path / "locked/run")
    assert result.status == 2
    assert "--out" in result.err
    assert result.err.count("\n") == 1


def test_full_disk(call, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device", str(tmp_path / "run/config.yaml"))

    monkeypatch.setattr("ppl_vae.files.write_bytes", refuse)
    result = call("train", *TINY, "--out", tmp_path / "run")
    assert result.status == 2
    assert result.err == f"ppl-vae train: error: {tmp_path / 'run/config.yaml'}: No space left on device\n"


def test_divergence_is_told_in_one_line(call, tmp_path):
    result = call(
        "train", *TINY, "--view", "dequantised", "--lr", "1e30", "--epochs", "9", "--out", tmp_path / "run"
    )
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert "last good checkpoint" in result.err


def test_debug_shows_the_traceback(call, own):
    result = call("train", "--prior", "own_parts.Broken", "--prior.late", "true", "--out", "new", "--debug")
    assert result.status == 2
    assert "Traceback" in result.err
    assert "ZeroDivisionError" in result.err
    assert not (own / "new").exists()
