# The course's commands. Each one first builds .venv if it is missing, unfinished, or older than the files that describe it.
VENV    := .venv
PY      := $(VENV)/bin/python
STAMP   := $(VENV)/.installed
PROFILE ?= quick
PYTHON  ?=
ARGS    ?=
JOBS    ?= 2
LFW     ?=
# TORCH=cpu takes the smaller build without CUDA from TORCH_INDEX; an environment built so remembers it in its stamp.
TORCH   ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
BUILT   := $(shell cat $(STAMP) 2>/dev/null)
BUILD   := $(or $(TORCH),$(BUILT))
ifneq ($(TORCH),$(filter cpu,$(TORCH)))
$(error TORCH is '$(TORCH)'; the one choice is TORCH=cpu (leave it away for the build on PyPI))
endif

# A Python that really runs (a shim on the path may not), has venv and pip, and is one the course declares.
SUITS   := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
# An environment worth keeping: a true virtual one (without pyvenv.cfg its python is the system's, and pip would install
# there), the right Python, a working pip, and no package that was cut off half-way.
WHOLE   := import sys, pip, importlib.metadata as m; \
           sys.exit(not (sys.prefix != sys.base_prefix and (3, 11) <= sys.version_info[:2] <= (3, 13) \
                         and all(d.files for d in m.distributions())))
# The second guard: pip itself refuses to install outside a virtual environment.
export PIP_REQUIRE_VIRTUALENV := 1
BENCH := $(PY) -m utils.benchmark --methods all --jobs $(JOBS) --profile $(PROFILE) --out build/results.json

# On a busy machine threads that wait actively slow each other down several times over.
export OMP_WAIT_POLICY ?= PASSIVE

define NEW_VENV
{ found=; for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python); do \
    "$$python" -c '$(SUITS)' >/dev/null 2>&1 && { found=$$python; break; }; done; \
  if [ -z "$$found" ]; then \
    echo "No usable Python 3.11, 3.12 or 3.13 with venv and pip was found ($(or $(PYTHON),python3.13 ... python)):" \
         "install one, or name it with 'make ... PYTHON=/path/to/python3'." >&2; exit 1; fi; \
  echo "Building $(VENV) with $$("$$found" --version) (once; a few minutes$(if $(BUILD),,, about 6 GB on Linux))."; \
  rm -rf $(VENV) && "$$found" -m venv $(VENV); }
endef

# torch and torchvision come first and from one index; pip keeps them when it adds the rest. A pip that is set up to look
# elsewhere, too, may bring another build: the last line tells.
define CPU_TORCH
{ { $(PY) -m pip install --disable-pip-version-check --retries 2 -U --no-deps -c constraints.txt \
      --index-url $(TORCH_INDEX) torch torchvision && \
    $(PY) -c 'import importlib.metadata as m, sys; \
              sys.exit(any(n.startswith("nvidia-") for n in m.requires("torch") or ()))'; } || { \
    echo "The CPU build of torch could not be had from $(TORCH_INDEX) (see pip's message above): check the network, name" \
         "another index with TORCH_INDEX=..., or leave TORCH=cpu away for PyPI's build (about 6 GB)." >&2; exit 1; }; }
endef

define INSTALL
{ $(if $(BUILD),$(CPU_TORCH) &&) { $(PY) -m pip install --disable-pip-version-check -r requirements.txt -c constraints.txt && \
    $(PY) -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e . ; } || { \
    echo "The installation did not finish (see pip's message above): check the network and free disk space," \
         "then run the same command again; it goes on from here." >&2; exit 1; }; }
endef

.DEFAULT_GOAL := help
.PHONY: help run test lab bench real site notebooks workshop clean

help:            ## list the commands
	@awk -F ':[^#]*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(STAMP)    ## run the course, JOBS notebooks at a time: results, site (PROFILE=full for the long one, ARGS="--only 02,03")
	@$(PY) -m utils.course --profile $(PROFILE) --jobs $(JOBS) $(ARGS)

# A file is one worker's alone, and the longest files, the notebooks, start first. Workers with a thread each do not
# wait for one another; the kernels of their notebooks inherit that.
test: $(STAMP)   ## check everything, JOBS files at a time: style, unit tests, every notebook
	@$(if $(filter 1,$(JOBS)),,OMP_NUM_THREADS=1) $(PY) -m pytest -p no:cacheprovider \
	  -n $(JOBS) --dist loadfile --no-loadscope-reorder \
	  --nbval-lax --nbval-current-env --nbval-cell-timeout 600 --ignore=notebooks/solutions notebooks tests $(ARGS)

lab: $(STAMP)    ## open the notebooks in JupyterLab
	@$(PY) -m jupyterlab --LabApp.default_url=/lab/tree/notebooks $(ARGS)

# One method that fails does not keep the next half from being run.
bench: $(STAMP)  ## compare all methods (three seeds on ten people, one on 1 to 40), into build/results.json; resumes (LFW=folder for real faces)
	@failed=0; \
	  $(BENCH) --seeds 3 $(ARGS) || failed=$$?; \
	  $(BENCH) --forget 1,5,20,40 $(ARGS) || failed=$$?; \
	  $(if $(LFW),$(BENCH) --dataset lfw --root $(LFW) --backbone dlib --half-unseen --seeds 3 $(ARGS) || failed=$$?;) \
	  exit $$failed

real: $(STAMP)   ## run notebooks 03, 05, 08, 09 and 10 on LFW with a real recogniser, into build/real (LFW=folder)
	@$(PY) -m utils.real --root "$(LFW)" --profile $(PROFILE) --jobs $(JOBS) $(ARGS)

site: $(STAMP)   ## build the HTML pages from what has been run so far
	@$(PY) -m utils.course --site-only $(ARGS)

notebooks: $(STAMP)  ## run the notebooks in place with their defaults and store their outputs
	@$(PY) -m utils.course --in-place $(ARGS)

workshop: $(STAMP)  ## build a folder for a USB stick: course, site, wheels for computers like this one (ARGS="--out ...")
	@$(PY) -m utils.workshop --out build/workshop $(ARGS)

clean:           ## remove executed notebooks, site and tool caches; results, own photos, .venv and caches of faces stay
	@test ! -x $(PY) || $(PY) -m utils.course --clean
	@rm -rf .pytest_cache .ruff_cache face_identity_unlearning.egg-info
	@find utils tests notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

# The stamp is written last, so an installation that was cut off is taken up again by the next command.
$(STAMP): requirements.txt constraints.txt pyproject.toml $(PY) $(if $(filter-out $(BUILT),$(TORCH)),rebuild)
	@rm -f $@
	@$(PY) -c '$(WHOLE)' >/dev/null 2>&1 || $(NEW_VENV)
	@$(INSTALL)
	@$(PY) -m utils.course --check || { echo "The environment is damaged; building it afresh." >&2; \
	  $(NEW_VENV) && $(INSTALL) && $(PY) -m utils.course --check; }
	@echo $(BUILD) > $@

# A missing interpreter is mended by the rule above.
$(PY): ;

.PHONY: rebuild
rebuild: ;
