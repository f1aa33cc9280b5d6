"""What ends a start of vLLM, as its last error words it, and what to do about each. The first that matches counts."""

from __future__ import annotations

from typing import Final

__all__ = ["CAUSES", "MISSING_PACKAGE"]

MISSING_PACKAGE: Final = r"No module named '(?!vllm)([\w.]+)'"

NO_JIT = (
    "去掉自己设的 VLLM_USE_FLASHINFER_SAMPLER（课程默认设成 0，不用编译，速度一样），重启内核再启动；"
    "不用课程的命令时，在终端执行 export VLLM_USE_FLASHINFER_SAMPLER=0。"
)
DOCTOR = "在仓库里执行 make doctor（显卡机器：先 conda activate vllm-tutorial，再 python -m helpers.doctor）"
AGAIN = "重新运行 02 号笔记本，把模型下载完整。"
NEW_DRIVER = (
    "换一个驱动更新的镜像或机器（驱动 575 以上），或者按 01 第 6 节装和驱动配套的 vLLM。" + DOCTOR + "，看该装哪一个。"
)

# (pattern, what happened, what to do); groups of the pattern fill the braces
CAUSES: Final[list[tuple[str, str, str]]] = [
    # the command
    (
        r"unrecognized arguments: (.+)",
        "vllm serve 不认识参数 {0}。",
        "用 vllm serve --help=all 查当前版本的写法，改掉或删掉它。",
    ),
    (
        r"argument (--[\w-]+)[^:]*: ((?:invalid|expected|not allowed).+)",
        "参数 {0} 的值不对：{1}",
        "用 vllm serve --help=all 查它可以取什么值。",
    ),
    (
        r"address already in use|EADDRINUSE",
        "端口已被别的程序占用。",
        "换一个端口，或先停掉占用它的程序。",
    ),
    (
        r"Errno 13\] (?:error while attempting to bind|Permission denied: \('|Permission denied$)",
        "这个端口要管理员权限才能用。",
        "换一个 1024 以上的端口。",
    ),
    (
        r"Cannot assign requested address|Name or service not known.*bind|could not bind",
        "--host 写的地址不是这台机器的。",
        "只给自己用，写 --host 127.0.0.1；要对外，写 0.0.0.0 或这台机器自己的地址。",
    ),
    # the model folder
    (
        r"Repo id must be in the form[^\n]*?: '([^']+)'",
        "模型文件夹 {0} 不存在。",
        "检查路径；还没有下载的话，先运行 02 号笔记本。",
    ),
    (
        r"Invalid repository ID or local directory specified: '([^']+)'",
        "{0} 里没有可用的模型（多半缺 config.json）。",
        AGAIN,
    ),
    (
        r"LocalEntryNotFoundError|outgoing traffic has been disabled|couldn't connect to 'https?://|"
        r"offline mode is enabled"
        r"|cannot find an appropriate cached snapshot|Can't load (?:the configuration|tokenizer) (?:of|"
        r"for) '[^/'][^']*'",
        "给的是模型名，不是文件夹：vLLM 要到网上去找，而这里不联网（HF_HUB_OFFLINE=1）或连不上。",
        "把模型名换成 02 号笔记本下载好的文件夹。",
    ),
    (
        r"GatedRepoError|401 Client Error|RepositoryNotFoundError|"
        r"is not a local folder and is not a valid model identifier",
        "网上没有这个模型，或者要登录才能下载。",
        "检查名字；用 02 号笔记本从 ModelScope 下载，启动时给那个文件夹。",
    ),
    (
        r"(?:MaxRetryError|ConnectionError|ReadTimeout|ConnectTimeout|NameResolutionError)[^\n]*(?:huggingface|"
        r"hf-mirror|modelscope)",
        "启动时要联网下载，可是连不上。",
        "先用 02 号笔记本把模型下载到本机，启动时给那个文件夹。",
    ),
    (
        r"Cannot find any model weights with `([^`]+)`",
        "{0} 里没有权重文件（*.safetensors）。",
        AGAIN,
    ),
    (
        r"SafetensorError: ([^\n]+)",
        "权重文件不完整或已损坏（{0}）。",
        "删掉损坏的权重文件，再运行 02 号笔记本重新下载。",
    ),
    (
        r"config file at '([^']+)' is not a valid JSON|JSONDecodeError",
        "模型文件夹里有一个 JSON 文件坏了，读不出来。",
        "删掉那个文件（{0}），再运行 02 号笔记本重新下载。",
    ),
    (
        r"following weights were not initialized|exceeds dimension size|size mismatch|shape mismatch|"
        r"Attempted to load weight \(.*\) into parameter|There is no module or parameter named '([^']+)'",
        "权重和 config.json 对不上：形状或名字不一样。",
        "两者要来自同一个模型。" + AGAIN,
    ),
    (
        r"model type `([^`]+)` but Transformers does not recognize",
        "装的 transformers 不认识这种模型（{0}）：模型比它新，或者 config.json 被改过。",
        "核对 config.json 的 model_type；确实是新模型，就要换更新的 vLLM 和 transformers。" + DOCTOR + "，看版本。",
    ),
    (
        r"Model architectures \[([^\]]+)\] (?:are not supported|failed to be inspected)",
        "这一版 vLLM 不支持这种模型结构（{0}）。",
        "核对 config.json 的 architectures；确实是新模型，就要换更新的 vLLM。",
    ),
    (
        r"trust_remote_code|requires you to execute the (?:configuration|modeling) file|contains custom code",
        "这个模型自带 Python 代码，vLLM 默认不运行。",
        "先看过它的代码，信得过再加 --trust-remote-code；本课程的模型不需要。",
    ),
    (
        r"(?:sentencepiece|tiktoken|protobuf)[^\n]*(?:not found|install|required|library)|"
        r"Couldn't instantiate the backend tokenizer|Can't load tokenizer|"
        r"data did not match any variant of untagged enum",
        "分词器读不出来：文件不全，或者和装的 transformers 不配套。",
        AGAIN + "还不行就" + DOCTOR + "，看版本。",
    ),
    (
        r"chat template[^\n]*(?:not found|does not exist|invalid)|looks like a file path, but it failed to be opened",
        "--chat-template 给的文件打不开。",
        "检查路径；DeepSeek-R1 的模板在分词器里，本来不用给。",
    ),
    # lengths and memory for the KV cache
    (
        r"max_model_len \((\d+)\) is greater than the derived max_model_len \(max_position_embeddings=(\d+)",
        "--max-model-len {0} 超过了模型支持的上限 {1}。",
        "把 --max-model-len 改成不超过 {1}。",
    ),
    (
        r"max_model_len \((\d+)\) is greater than the derived max_model_len",
        "--max-model-len {0} 超过了模型支持的上限。",
        "看 config.json 的 max_position_embeddings，改成不超过它。",
    ),
    (
        r"max_num_batched_tokens \((\d+)\) is smaller than max_model_len \((\d+)\)",
        "--max-num-batched-tokens {0} 比 --max-model-len {1} 还小。",
        "把前者调大，或把后者调小。",
    ),
    (
        r"max seq len \((\d+)\), \(([\d.]+) GiB KV cache is needed[\s\S]*?\(([\d.]+) GiB\)[\s\S]*?"
        r"maximum model length is (\d+)",
        "KV cache 放不下：一条 {0} token 的请求要 {1} GiB，只剩 {2} GiB。",
        "把 --max-model-len 调到 {3} 以下，或把 --gpu-memory-utilization 调大。",
    ),
    (
        r"max seq len \((\d+)\), \(([\d.]+) GiB KV cache is needed[\s\S]*?\(([\d.]+) GiB\)",
        "KV cache 放不下：一条 {0} token 的请求要 {1} GiB，只剩 {2} GiB。",
        "把 --max-model-len 调小，或把 --gpu-memory-utilization 调大。",
    ),
    (
        r"max seq len \((\d+)\)[\s\S]*larger than the maximum number of tokens that can be stored in KV cache "
        r"\((\d+)\)",
        "KV cache 放不下：一条请求最长 {0} token，只放得下 {1} 个。",
        "把 --max-model-len 调到 {1} 以下，或把 --gpu-memory-utilization 调大。",
    ),
    (
        r"No available memory for the cache blocks",
        "装完权重以后，没有内存留给 KV cache 了。",
        "把 --gpu-memory-utilization 调大，或换显存更大的卡。",
    ),
    (
        r"\(([\d.]+)/([\d.]+) GiB\)(?: on startup)? is less than desired (?:GPU|CPU) memory utilization \(([\d.]+)",
        "空闲内存不够：共 {1} GiB，空闲 {0} GiB，而 --gpu-memory-utilization 要占用其中的 {2}。",
        "关掉占内存的程序（例如另一个笔记本里的 LLM），或把 --gpu-memory-utilization 调小。",
    ),
    (
        r"Error in memory profiling",
        "启动时别的程序正在同一块卡上放开显存，vLLM 算不准自己用了多少。",
        "等那个程序退干净（nvidia-smi 里看不到它）再启动；一块卡上不要同时启动两个。",
    ),
    # out of memory, for four reasons
    (
        r"(?:out of memory|OutOfMemory)[^\n]*warming up sampler with (\d+)|"
        r"warming up sampler with (\d+)[^\n]*dummy requests",
        "预热时显存不够：默认按 {0}{1} 个请求一起预热。",
        "加 --max-num-seqs 64，或把 --gpu-memory-utilization 调小一点；和 --max-model-len 无关。",
    ),
    (
        r"Process (\d+) has ([\d.]+ [GM]iB) memory in use[\s\S]*",
        "显存不够：别的进程（pid {0}）占着 {1}。",
        "用 nvidia-smi 核对是谁，关掉它；或者换一块空着的卡（CUDA_VISIBLE_DEVICES）。",
    ),
    (
        r"out of memory[\s\S]*?total capacity of ([\d.]+ GiB)[\s\S]*?this process has ([\d.]+ GiB) memory in use",
        "显存不够：这块卡共 {0}，已被 vLLM 自己用掉 {1}。没有别人占着，是卡太小。",
        "看 01 第 3 节的算术：换显存更大的卡，用两块卡（--tensor-parallel-size 2），或换量化过的模型。",
    ),
    (
        r"(?:CUDA|HIP)[^\n]*out of memory|OutOfMemoryError",
        "显存不够。",
        "用 nvidia-smi 看有没有别的程序占着，有就关掉；没有，就是卡太小，或者把 --max-num-seqs、--max-model-len 调小。",
    ),
    (
        r"DefaultCPUAllocator[^\n]*(?:can't|not enough|failed to) *allocate|Cannot allocate memory|^MemoryError|"
        r"std::bad_alloc",
        "内存不够。",
        "用 free -h 看还剩多少，关掉别的程序，"
        "或把 --gpu-memory-utilization（CPU 上指内存）、VLLM_CPU_KVCACHE_SPACE 调小。",
    ),
    (
        r"No space left on device[\s\S]*shm|/dev/shm|shared memory[^\n]*(?:too small|insufficient|exhausted)|"
        r"bus error|SIGBUS",
        "共享内存（/dev/shm）不够。",
        "容器加 --shm-size=8g（或 --ipc=host）再启动。",
    ),
    (
        r"No space left on device|Disk quota exceeded",
        "磁盘满了。",
        "用 df -h 看哪一块；vLLM 的编译缓存在 ~/.cache/vllm，可以删，也可以用 VLLM_CACHE_ROOT 挪到数据盘。",
    ),
    (
        r"Read-only file system: '([^']+)'",
        "{0} 所在的磁盘只能读，不能写。",
        "把缓存挪到能写的地方：export VLLM_CACHE_ROOT=一个能写的文件夹。",
    ),
    (
        r"Permission denied: '([^']+)'",
        "没有权限访问 {0}。",
        "换成自己有权限的文件夹；如果是 ~/.cache 里的，多半是以前用 root 建的，删掉它或改回所有者。",
    ),
    (
        r"Too many open files|Errno 24\]",
        "打开的文件太多，超过了系统的限制。",
        "在终端执行 ulimit -n 65535，再从这个终端启动。",
    ),
    # the card and its driver
    (
        r"UVA is not available|pin_memory.*WSL",
        "WSL2 上默认不用锁页内存（pinned memory），引擎因此起不来。",
        "在终端执行 export VLLM_WSL2_ENABLE_PIN_MEMORY=1，再从这个终端启动。",
    ),
    (
        r"Bfloat16 is only supported on GPUs with compute capability of at least 8",
        "这块显卡不支持 bfloat16。",
        "设环境变量 TUTORIAL_DTYPE=float16，重新运行。",
    ),
    (
        r"torch\.(\w+) is not supported for quantization method (\w+)",
        "量化方法 {1} 不能用 {0} 计算。",
        "把 --dtype 改成 float16 或 bfloat16。",
    ),
    (
        r"quantization method (\w+) is not supported for the current GPU[\s\S]*?[Cc]apability: (\d+)",
        "这块显卡太旧，不支持 {0} 量化（至少要计算能力 {1}）。",
        "换一种量化（AWQ、GPTQ 要求低），或换新一点的卡。",
    ),
    (
        r"Unknown quantization method|Quantization method specified in the model config \((\w+)\) does not match",
        "量化方法不对：命令里的 --quantization 和模型自己的不一样，或者 vLLM 没有这种。",
        "去掉 --quantization，让 vLLM 自己从 config.json 里读。",
    ),
    (
        r"unsupported toolchain|CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        "显卡驱动比安装包的 CUDA 旧：有的核函数（kernel）要由驱动现编译，它编译不了。",
        NEW_DRIVER,
    ),
    (
        r"no kernel image is available|not compatible with the current PyTorch installation|"
        r"sm_\d+ is not (?:defined|supported)",
        "这个安装包里没有给这块显卡编译的程序：卡太新或太旧。",
        DOCTOR + "，看该装哪一个安装包；太旧的卡（计算能力低于 7.5）要换。",
    ),
    (
        r"NVIDIA driver on your system is too old|driver version is insufficient|CUDA_ERROR_COMPAT_NOT_SUPPORTED|"
        r"forward compatibility was attempted",
        "NVIDIA 驱动太旧，跑不了现在装的 vLLM。",
        NEW_DRIVER,
    ),
    (
        r"Driver/library version mismatch",
        "显卡驱动刚更新过，内核里还是旧的。",
        "重启机器。",
    ),
    (
        r"Cannot re-initialize CUDA in forked subprocess",
        "这个进程已经用过 CUDA，再分叉（fork）出的子进程就不能用了。",
        "启动 vLLM 之前不要先用 torch.cuda；或者 export VLLM_WORKER_MULTIPROC_METHOD=spawn。",
    ),
    (
        r"busy or unavailable|all CUDA-capable devices are busy",
        "显卡正被别的程序独占，或者上一个程序没有退干净。",
        "用 nvidia-smi 看是谁，结束它；计算模式（Compute Mode）是 Exclusive 的，请管理员改成 Default。",
    ),
    (
        r"uncorrectable ECC|uncorrectable NVLink|GPU is lost|fallen off the bus|Xid|unspecified launch failure|"
        r"an illegal memory access|device-side assert|misaligned address|CUBLAS_STATUS_EXECUTION_FAILED|hardware",
        "显卡在计算时出错了。",
        "重启程序再试；还出，就用 nvidia-smi -q 和 dmesg 看有没有 ECC、Xid 错误，有就换一台机器。",
    ),
    (
        r"invalid device ordinal|world.?size \((\d+)\)[^\n]*(?:less than|larger than|greater than|exceed)|"
        r"tensor parallel size \((\d+)\)[^\n]*(?:exceeds|larger)|current node has no GPU available|"
        r"(?:placement group|resources)[^\n]*GPU",
        "要的卡比这里看得到的多。",
        "用 nvidia-smi -L 数一数，把 --tensor-parallel-size 改成不超过它；设了 CUDA_VISIBLE_DEVICES 的话，"
        "只算里面列的。",
    ),
    (
        r"attention heads \((\d+)\) must be divisible by tensor parallel size \((\d+)\)|"
        r"(\d+) is not divisible by (\d+)",
        "{0}{2} 个注意力头分不成 {1}{3} 等份。",
        "--tensor-parallel-size 要能整除注意力头数：7B 有 28 个，可以取 1、2、4、7。",
    ),
    (
        r"libcuda\.so\.1: cannot open|Failed to infer device type|No CUDA GPUs are available|no CUDA-capable device|"
        r"Found no NVIDIA driver|NVML Shared Library Not Found|CUDA driver initialization failed|CUDA unknown error|"
        r"cudaGetDeviceCount|NVMLError(?:_LibraryNotFound|_DriverNotLoaded|)?:|Torch not compiled with CUDA",
        "这里看不到能用的显卡。",
        "在终端执行 nvidia-smi：它也看不到，AutoDL 要用“有卡模式”开机，容器要加 --gpus all；"
        "它看得到，就检查 CUDA_VISIBLE_DEVICES 和装的是不是显卡版。",
    ),
    (
        r"(lib(?:cud\w+|cublas\w*|nv\w+|nccl)\.so[.\d]*): cannot open shared object file|"
        r"undefined symbol: \w*(?:cu|nv)\w*",
        "装的 PyTorch、vLLM 和 CUDA 运行库不配套（{0}）。",
        "不要单独升级其中一个：按 README 重新建一个环境。" + DOCTOR + "，看版本。",
    ),
    (
        r"undefined symbol",
        "装的 vLLM 和 PyTorch 不配套。",
        "不要单独升级其中一个：按 README 重新建一个环境。",
    ),
    (
        r"version `(GLIBC\w*_[\d.]+)' not found",
        "系统太旧，缺 {0}，装不了现在的安装包。",
        "换 Ubuntu 22.04 以上的镜像。",
    ),
    # what has to be compiled
    (
        r"(?:No such file or directory: ')?(ninja|[\w/.-]*nvcc)'|(nvcc|ninja)[^\n]*not found|Could not find (nvcc)|"
        r"(ninja) (?:is required|build (?:failed|stopped))|Error (?:building|compiling) extension|"
        r"CUDA_HOME[^\n]*not set",
        "FlashInfer 要在第一次启动时编译算子，可是没有编成（缺 nvcc 或 ninja）。",
        NO_JIT,
    ),
    (
        r"Failed to find C compiler|gcc[^\n]*(?:not found|No such file)|No such file or directory: '(?:gcc|cc|"
        r"g\+\+|clang)'|"
        r"Python\.h|InvalidCxxCompiler|C\+\+ compiler[^\n]*(?:not|no) ",
        "第一次启动要编译一小段 C 程序，可是缺 C 编译器或 Python 的头文件。",
        "Debian、Ubuntu：apt install build-essential python3-dev；conda：conda install gxx_linux-64。",
    ),
    # several cards
    (
        r"NCCL error|ncclUnhandled|ncclSystemError|ncclInternalError|ncclInvalidUsage|NCCL (?:WARN|operation)|"
        r"DistBackendError",
        "几块卡之间连不上（NCCL 出错）。",
        "先 export NCCL_DEBUG=INFO 再启动一次看细节；容器检查 /dev/shm；消费级卡可试 export NCCL_P2P_DISABLE=1。",
    ),
    (
        r"Timed out (?:waiting|initializing|after)|did not (?:start|become ready) within|TimeoutError",
        "有一个进程在规定时间里没有准备好。",
        "机器太忙，或磁盘太慢（第一次读权重要几分钟）：再启动一次，给长一点的时间。",
    ),
    (
        r"Illegal instruction|SIGILL|(?:AVX2|AVX512)[^\n]*(?:required|not support)",
        "这个 CPU 缺少 vLLM 要用的指令（AVX2）。",
        "在终端执行 lscpu | grep avx2，没有输出就要换一台机器。",
    ),
    (
        r"^Killed|SIGKILL|exit code -9|signal 9",
        "进程被系统杀死了，多半是内存不够。",
        "用 free -h 看内存，关掉别的程序，或换内存更大的机器；容器要看内存上限。",
    ),
    (
        r"cannot import name '(\w+)' from '([\w.]+)'",
        "装的几个包版本不配套：{1} 里没有 {0}。",
        "按 README 重新安装环境，不要单独升级其中一个包。",
    ),
    (
        r"numpy[^\n]*(?:binary incompatibility|compiled using NumPy 1)|dtype size changed",
        "numpy 的版本和别的包不配套。",
        "按 README 重新安装环境，不要单独升级其中一个包。",
    ),
    (
        MISSING_PACKAGE,
        "缺少 Python 包 {0}。",
        "按 README 重新安装环境。",
    ),
]
