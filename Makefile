# Two commands matter: `make tutorial` and `make test`. They first set up what this machine needs: the CPU build of
# vLLM, or the CUDA one where a usable card is (requirements/choose.py). PROFILE=classroom or gpu decides by hand, and
# PROFILE=cpu runs the real 1.5B without a card. Each set has a folder of its own; .venv is a link to the one in use.
PYTHON ?= python3
SET := $(if $(filter-out clean,$(or $(MAKECMDGOALS),tutorial)),$(shell $(PYTHON) requirements/choose.py $(PROFILE)))
VENV := .venv-$(SET)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH := torch==2.13.0+cpu
TORCH_INDEX := https://download.pytorch.org/whl/cpu
CU129_INDEX := https://wheels.vllm.ai/0.32.0/cu129
NEEDS_GB := $(if $(filter classroom,$(SET)),6,20)
# a mirror that pip was told of serves uv as well
UV = INDEX="$${UV_INDEX_URL:-$${PIP_INDEX_URL:-$$($(BIN)/python -m pip config get global.index-url 2> /dev/null)}}"; \
	$${INDEX:+env UV_INDEX_URL="$$INDEX"} $(BIN)/uv pip install --quiet --python $(BIN)/python
LOCK := --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url
NOT_INSTALLED = { echo "没有装完，多半是网络断了或磁盘满了，上面几行英文写着原因。下一步：再执行一次刚才的 make"; exit 1; }

export PYTHONUTF8 = 1
ifeq ($(PROFILE),cpu)
export TUTORIAL_PROFILE = cpu
endif
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup tutorial test test-code test-notebooks test-all lab notebooks doctor bench gpu-report lock clean

tutorial: setup
	@$(BIN)/python -m helpers.models
	@$(BIN)/python -m helpers.authoring.series run

# the two halves at once, for much of each is waiting; each prints when it has ended
test: setup
	@echo "两组测试同时跑，约 9 分钟，各自跑完才打印"
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target test-code test-notebooks

test-code: setup
	@$(BIN)/python -m pytest tests -m "not extra"

test-notebooks: setup
	@$(BIN)/python -m pytest notebooks

# then what takes longer or needs more than Python: each cell twice, odd models, nginx
test-all: test
	@echo "再测费时的：每格运行两遍，不听话的模型，班级服务器（要二十五分钟左右）"
	@$(BIN)/python -m pytest -m extra

lab: setup
	@echo "JupyterLab 正在启动。浏览器没有自己打开，就把下面 http://127.0.0.1 开头的那一整行复制到浏览器里。"
	@echo "停止：回到这个终端，按两次 Ctrl-C。"
	@$(BIN)/jupyter lab --ip 127.0.0.1 --log-level WARN --LabApp.default_url /lab/tree/notebooks/01_environment.ipynb \
		$(if $(filter 0,$(shell id -u)),--allow-root)

notebooks: setup
	@$(BIN)/python -m helpers.authoring.series rewrite && $(BIN)/python -m helpers.authoring.series index

doctor: setup
	@$(BIN)/python -m helpers.doctor

# KEEP=1 puts the report into helpers/bench, where the notebooks read it
bench: setup
	@$(BIN)/python -m helpers.authoring.report cpu $(if $(KEEP),--keep)

# KEEP as above; WEIGHTS says what the checkpoint holds, PARTS=curve,step measures only these
gpu-report: setup
	@$(BIN)/python -m helpers.authoring.report gpu $(if $(WEIGHTS),--weights "$(WEIGHTS)") \
		$(if $(PARTS),--parts $(PARTS)) $(if $(KEEP),--keep)

lock: setup
	@$(BIN)/uv pip compile $(LOCK) --override requirements/cpu-overrides.txt requirements/cpu.in -o requirements/cpu.txt
	@$(BIN)/uv pip compile $(LOCK) requirements/gpu.in -o requirements/gpu.txt

# a learner's solved exercises are kept
clean:
	rm -rf .venv .venv-* *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@[ ! -d build ] || find build -mindepth 1 -maxdepth 1 ! -name exercises.json -exec rm -rf {} +
	@[ ! -f build/exercises.json ] || echo "留下了练习记录 build/exercises.json；连它也不要：rm -rf build"

# an older checkout has the classroom set in .venv itself
setup: $(READY)
	@[ -L .venv ] || rm -rf .venv
	@ln -sfn $(VENV) .venv

# the choice failed and has said why, or there is no such Python
.venv-/.ready:
	@echo "不知道该装哪一套。下一步：按上面一行的话改，再执行一次刚才的 make"; exit 1

define prepare
@[ "$$(uname -sm)" = "Linux x86_64" ] || \
	{ echo "这里是 $$(uname -sm)，课程的引擎只能装在 x86-64 的 Linux 上。别的电脑怎么学，看 README.md 开头的表"; exit 1; }
@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
	{ echo "需要 Python 3.11 到 3.14；用 make PYTHON=/路径/python3.12 指定一个"; exit 1; }
@$(PYTHON) -c 'import ensurepip' 2> /dev/null || \
	{ echo "这个 Python 建不了虚拟环境。下一步：sudo apt-get install -y python3-venv，再执行一次刚才的 make"; exit 1; }
@FREE=$$(df -Pk . | awk 'NR == 2 { print int($$4 / 1048576) }'); [ "$$FREE" -ge $(NEEDS_GB) ] || \
	{ echo "这里的磁盘只剩 $$FREE GB，要 $(NEEDS_GB) GB。下一步：腾出地方，或者把仓库挪到大的磁盘上，再执行一次刚才的 make"; exit 1; }
@echo "[1/3] 建虚拟环境 $(VENV)；要几分钟，英文的 WARNING 和 Retrying 不是出错"
@$(PYTHON) -m venv $(VENV)
@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv || $(NOT_INSTALLED)
endef

define finish
@echo "[3/3] 安装 helpers，注册 Jupyter 内核"
@$(UV) --no-deps --no-build-isolation -e . || $(NOT_INSTALLED)
@$(BIN)/python -m ipykernel install --sys-prefix --name vllm-tutorial --display-name "vLLM Tutorial" \
	--env PATH '$(abspath $(BIN)):$${PATH}' > /dev/null
@touch $@
endef

# torch comes first and by pip, from the PyTorch CPU index or from wheels that pip finds on this machine; the locked
# rest by uv, which is ten times faster. Bytecode is compiled once, or every engine start would pay for it.
.venv-classroom/.ready: requirements/cpu.txt requirements/vllm-alias/pyproject.toml pyproject.toml
	$(prepare)
	@echo "[2/3] 安装 CPU 版：$(TORCH) 和 requirements/cpu.txt（有 NVIDIA 显卡的，先按 README 装好驱动，再 make）"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --retries 1 \
		--extra-index-url $(TORCH_INDEX) "$(TORCH)" || $(NOT_INSTALLED)
	@$(UV) --no-deps --compile-bytecode -r requirements/cpu.txt || $(NOT_INSTALLED)
	@$(UV) --no-deps --no-build-isolation ./requirements/vllm-alias || $(NOT_INSTALLED)
	$(finish)

.venv-gpu/.ready: requirements/gpu.txt pyproject.toml
	$(prepare)
	@echo "[2/3] 安装锁定的依赖（requirements/gpu.txt，下载约 5 GB，装好约 9 GB）"
	@$(UV) --no-deps --compile-bytecode -r requirements/gpu.txt || $(NOT_INSTALLED)
	$(finish)

# CUDA 12.9 builds of vLLM and torch, from the indexes of their projects; not locked, for PyPI does not have them
.venv-gpu-cu129/.ready: requirements/gpu.in pyproject.toml
	$(prepare)
	@echo "[2/3] 安装 CUDA 12.9 的那一套（requirements/gpu.in）"
	@$(UV) --compile-bytecode --torch-backend cu129 --extra-index-url $(CU129_INDEX) -r requirements/gpu.in || \
		$(NOT_INSTALLED)
	$(finish)
