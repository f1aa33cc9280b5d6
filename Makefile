# Two commands matter: `make tutorial` and `make test`. They set up .venv first if it is missing or outdated.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH := torch==2.13.0+cpu
TORCH_INDEX := https://download.pytorch.org/whl/cpu

export PYTHONUTF8 = 1
unexport PYTHONDONTWRITEBYTECODE

.PHONY: tutorial test test-code test-notebooks test-all lab notebooks doctor bench gpu-report lock clean

tutorial: $(READY)
	@$(BIN)/python -m helpers.authoring.series run

# the two halves at once, for much of each is waiting; each prints when it has ended
test: $(READY)
	@echo "两组测试同时跑，约 7 分钟，各自跑完才打印"
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target test-code test-notebooks

test-code: $(READY)
	@$(BIN)/python -m pytest tests -m "not extra"

test-notebooks: $(READY)
	@$(BIN)/python -m pytest notebooks

# then what needs more than Python: nginx
test-all: test
	@$(BIN)/python -m pytest -m extra

lab: $(READY)
	@$(BIN)/jupyter lab --ip 127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/01_environment.ipynb

notebooks: $(READY)
	@$(BIN)/python -m helpers.authoring.series rewrite && $(BIN)/python -m helpers.authoring.series index

doctor: $(READY)
	@$(BIN)/python -m helpers.doctor

# KEEP=1 puts the report into helpers/bench, where the notebooks read it
bench: $(READY)
	@$(BIN)/python -m helpers.authoring.report cpu $(if $(KEEP),--keep)

# for the environment of environment.yml; KEEP as above; WEIGHTS says what the checkpoint holds, PARTS=curve,step
# measures only these
gpu-report:
	@$(PYTHON) -m helpers.authoring.report gpu $(if $(WEIGHTS),--weights "$(WEIGHTS)") \
		$(if $(PARTS),--parts $(PARTS)) $(if $(KEEP),--keep)

lock: $(READY)
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
		--override requirements/cpu-overrides.txt requirements/cpu.in -o requirements/cpu.txt

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis

# torch comes first and by pip, from the PyTorch CPU index or from wheels that pip finds on this machine; the locked
# rest by uv, which is ten times faster. Bytecode is compiled once, or every engine start would pay for it.
$(READY): requirements/cpu.txt requirements/vllm-alias/pyproject.toml pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "需要 Python 3.11 或更新的版本；用 make PYTHON=/路径/python3.11 指定一个"; exit 1; }
	@echo "[1/3] 建虚拟环境 $(VENV)，安装 $(TORCH)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --retries 1 \
		--extra-index-url $(TORCH_INDEX) "$(TORCH)"
	@echo "[2/3] 安装锁定的依赖（requirements/cpu.txt）"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode -r requirements/cpu.txt
	@echo "[3/3] 安装 helpers，注册 Jupyter 内核"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation ./requirements/vllm-alias -e .
	@$(BIN)/python -m ipykernel install --sys-prefix --name vllm-tutorial --display-name "vLLM Tutorial" \
		--env PATH '$(abspath $(BIN)):$${PATH}' > /dev/null
	@touch $(READY)
