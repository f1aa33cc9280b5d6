# Two commands matter: `make tutorial` and `make test`. They set up .venv first if it is missing or outdated.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH := torch==2.13.0+cpu
TORCH_INDEX := https://download.pytorch.org/whl/cpu
NOT_INSTALLED = { echo "没有装完，多半是网络断了或磁盘满了，上面几行英文写着原因。下一步：再执行一次刚才的 make"; exit 1; }

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

# then what takes longer or needs more than Python: each cell twice, odd models, nginx
test-all: test
	@echo "再测费时的：每格运行两遍，不听话的模型，班级服务器（要二十分钟左右）"
	@$(BIN)/python -m pytest -m extra

lab: $(READY)
	@echo "JupyterLab 正在启动。浏览器没有自己打开，就把下面 http://127.0.0.1 开头的那一整行复制到浏览器里。"
	@echo "停止：回到这个终端，按两次 Ctrl-C。"
	@$(BIN)/jupyter lab --ip 127.0.0.1 --log-level WARN --LabApp.default_url /lab/tree/notebooks/01_environment.ipynb \
		$(if $(filter 0,$(shell id -u)),--allow-root)

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

# a learner's solved exercises are kept
clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@[ ! -d build ] || find build -mindepth 1 -maxdepth 1 ! -name exercises.json -exec rm -rf {} +
	@[ ! -f build/exercises.json ] || echo "留下了练习记录 build/exercises.json；连它也不要：rm -rf build"

# torch comes first and by pip, from the PyTorch CPU index or from wheels that pip finds on this machine; the locked
# rest by uv, which is ten times faster. Bytecode is compiled once, or every engine start would pay for it.
$(READY): requirements/cpu.txt requirements/vllm-alias/pyproject.toml pyproject.toml
	@[ "$$(uname -sm)" = "Linux x86_64" ] || \
		{ echo "这里是 $$(uname -sm)，课程的引擎只能装在 x86-64 的 Linux 上。别的电脑怎么学，看 README.md 开头的表"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "需要 Python 3.11 或更新的版本；用 make PYTHON=/路径/python3.11 指定一个"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2> /dev/null || \
		{ echo "这个 Python 建不了虚拟环境。下一步：sudo apt-get install -y python3-venv，再执行一次刚才的 make"; exit 1; }
	@echo "[1/3] 建虚拟环境 $(VENV)，安装 $(TORCH)；要几分钟，英文的 WARNING 和 Retrying 不是出错，等 [2/3] 出现就好"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv || $(NOT_INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --retries 1 \
		--extra-index-url $(TORCH_INDEX) "$(TORCH)" || $(NOT_INSTALLED)
	@echo "[2/3] 安装锁定的依赖（requirements/cpu.txt）"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode -r requirements/cpu.txt || \
		$(NOT_INSTALLED)
	@echo "[3/3] 安装 helpers，注册 Jupyter 内核"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation ./requirements/vllm-alias -e .
	@$(BIN)/python -m ipykernel install --sys-prefix --name vllm-tutorial --display-name "vLLM Tutorial" \
		--env PATH '$(abspath $(BIN)):$${PATH}' > /dev/null
	@touch $(READY)
