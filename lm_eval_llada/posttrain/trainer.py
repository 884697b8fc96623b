"""Post-training on transformers' Trainer: our loss and data, its optimizers, sharding and logs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.posttrain.document_stream import StreamOptions, open_documents
from lm_eval_llada.posttrain.evaluation import NeedleCheck
from lm_eval_llada.posttrain.model import (
    extended_config,
    load_for_training,
    merge_lora,
    runs_by_document,
    save_weights,
)
from lm_eval_llada.posttrain.options import DataOptions, PosttrainOptions
from lm_eval_llada.posttrain.packing import (
    Packer,
    PackingOptions,
    PackingStatistics,
    Resumable,
)
from lm_eval_llada.posttrain.resume import (
    last_whole_checkpoint,
    read_place,
    write_place,
)
from lm_eval_llada.posttrain.sample_stream import (
    STATE,
    SampleStream,
    Share,
)

RECORD_NAME = "posttrain.json"


class PosttrainTrainer(transformers.Trainer):
    """A Trainer whose loss is a sum over the global batch, divided once by what all ranks hold.

    Attributes:
        place: in the data, after the samples of the last step.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        stream: SampleStream,
        *,
        identity: dict[str, Any],
        needles: NeedleCheck | None = None,
        tokenizer: Any = None,
    ) -> None:
        """A run at the place where its stream is.

        Args:
            model: from `load_for_training`.
            args: of transformers.
            stream: micro-batches of this rank.
            identity: settings saved in checkpoints, that a resumed run must share.
            needles: to look for on the way.
            tokenizer: saved in checkpoints.
        """
        super().__init__(
            model=model,
            args=args,
            train_dataset=stream,
            eval_dataset=None if needles is None else needles.samples,
            processing_class=tokenizer,
        )
        # Tells Trainer that the loss is divided already, and not to divide it by micro-batches.
        self.model_accepts_loss_kwargs = True
        self.place = stream.state_dict()
        self._stream = stream
        self._identity = identity
        self._needles = needles

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The stream as it is: accelerate's own loader would read a micro-batch ahead."""
        return DataLoader(
            self._stream,
            batch_size=None,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            # Its own, lest a resumed run draw one number more from the global one.
            generator=torch.Generator(),
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor]:
        """Micro-batches of a step, and the divisor of their loss over all ranks."""
        if self.state.global_step >= self.state.max_steps:
            # Resumed where it ended: transformers would train a step more.
            self.control.should_training_stop = True
            return [], torch.ones((), device=device)
        batches = [next(epoch_iterator) for _ in range(num_batches)]
        self.place = [batch.pop(STATE) for batch in batches][-1]
        num_items = torch.stack([batch.pop("num_items") for batch in batches]).sum().to(device)
        # Without a mask in the whole batch the loss is 0 whatever divides it.
        return batches, self.accelerator.reduce(num_items, "sum").clamp(min=1)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This micro-batch's part of the loss, times the ranks whose gradients are averaged."""
        if num_items_in_batch is None:
            raise ValueError("The loss needs num_items_in_batch, the divisor over all ranks.")
        outputs = model(**inputs)
        loss = outputs.loss * (self.accelerator.num_processes / num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Looks for the needles and logs the scores.

        Raises:
            ValueError: if the run has none.
        """
        if self._needles is None:
            raise ValueError("This run looks for no needles; set evaluation.every.")
        scores = self._needles.scores(self.model, self.args.device)
        self.log(scores)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, scores
        )
        return scores

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs, with the share of the run that is done as `epoch`: a stream has no epochs.

        Raises:
            ValueError: if the loss is not finite.
        """
        if not math.isfinite(logs.get("loss", 0.0)):
            raise ValueError(
                f"The loss is {logs['loss']} at step {self.state.global_step}; lower the learning "
                "rate, or use training.bf16 in place of fp16."
            )
        self.state.epoch = self.state.global_step / self.state.max_steps
        super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.is_world_process_zero():
            name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            folder = Path(str(self.args.output_dir)) / name
            write_place(folder, self.place, self._identity, self.args.world_size)
        super()._save_checkpoint(model, trial)


def training_arguments(options: PosttrainOptions) -> TrainingArguments:
    """The arguments of transformers' Trainer.

    Raises:
        ValueError: if transformers refuses a value, or the processes of a run would train apart.
    """
    evaluation = options.evaluation.every
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    # Left alone, transformers connects no ranks where it finds no accelerator.
    on_cpus = {"use_cpu": True, "ddp_backend": "gloo"}
    settings: dict[str, Any] = {
        **(on_cpus if num_ranks > 1 and not torch.accelerator.is_available() else {}),
        "report_to": "none",
        # A loss that is not a number is to be seen, not averaged away.
        "logging_nan_inf_filter": False,
        **options.training,
        "output_dir": options.output,
        "seed": options.seed,
        "ignore_data_skip": True,
        "remove_unused_columns": False,
        "dataloader_num_workers": options.data.num_workers,
        "eval_strategy": "no" if evaluation is None else "steps",
        "eval_steps": evaluation,
    }
    args = TrainingArguments(**settings)
    if args.world_size != num_ranks:
        raise ValueError(
            f"{num_ranks} processes were started, but each would train by itself; set "
            "training.ddp_backend, such as gloo with training.use_cpu, or start one process."
        )
    return args


def make_stream(
    options: PosttrainOptions, tokenizer: Any, config: Any, share: Share
) -> SampleStream:
    """The samples of a rank, from the first one on.

    Raises:
        ValueError: if the source is wrong, or the tokenizer has no end-of-text token to separate
            documents by.
        FileNotFoundError: if the source is not there.
    """
    data = options.data
    eos_token_id = tokenizer.eos_token_id
    packing = PackingOptions(
        strategy=data.strategy,
        length=data.length,
        eod_token_id=eos_token_id if data.strategy == "eod" else None,
        min_document_length=data.min_document_length,
    )
    return SampleStream(
        Packer(packing, _documents(data, tokenizer, options.seed)),
        options.objective,
        share,
        seed=options.seed,
        mask_token_id=config.mask_token_id,
        pad_token_id=config.mask_token_id if eos_token_id is None else eos_token_id,
    )


def _documents(data: DataOptions, tokenizer: Any, seed: int) -> Resumable:
    if data.source == "tiny":
        # Read only where it is wanted: it parses the whole standard library.
        from lm_eval_llada.tiny.corpus import read_corpus
        from lm_eval_llada.tiny.documents import TinyDocuments
        from lm_eval_llada.tiny.samples import SampleMaker

        maker = SampleMaker(read_corpus(), tokenizer.backend_tokenizer, seed)
        share = {} if data.needle_share is None else {"needle_share": data.needle_share}
        # Behind each document packing puts a separator under this strategy alone.
        separator_length = int(data.strategy == "eod")
        return TinyDocuments(
            maker, seed=seed, max_length=data.length, separator_length=separator_length, **share
        )
    order = StreamOptions(
        seed=seed,
        buffer_size=data.buffer_size,
        epochs=data.epochs,
        text_field=data.text_field,
        separator=data.separator,
    )
    return open_documents(data.source, tokenizer, data.data_dir, order)


def run(options: PosttrainOptions) -> list[dict[str, float]]:
    """Trains to the end, from the last whole checkpoint in `options.output` where there is one.

    Returns:
        The log: losses, learning rates and needle scores, each with its step.

    Raises:
        ValueError: if a setting is wrong, or the checkpoint was saved under other settings.
        FileNotFoundError: if the source of documents is not there.
        ImportError: if LoRA is asked for and peft is missing.
    """
    args = training_arguments(options)
    # Again in Trainer; here for the fresh weights of LoRA.
    transformers.set_seed(options.seed)
    tokenizer = load_tokenizer(options.tokenizer, options.pretrained, options.revision)
    model = load_for_training(options)
    share = Share(args.per_device_train_batch_size, args.process_index, args.world_size)
    stream = make_stream(options, tokenizer, model.config, share)
    per_rank = args.per_device_train_batch_size * args.gradient_accumulation_steps
    identity = {**options.identity(), "global_batch": per_rank * args.world_size}
    output = Path(options.output)
    checkpoint = last_whole_checkpoint(output)
    if checkpoint is not None:
        stream.load_state_dict(read_place(checkpoint, identity))
    needles = None
    if options.evaluation.every is not None:
        needles = NeedleCheck(options.evaluation, tokenizer)
    trainer = PosttrainTrainer(
        model, args, stream, identity=identity, needles=needles, tokenizer=tokenizer
    )
    _check_layout(trainer, options)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    save_result(trainer, options)
    return trainer.state.log_history


def _check_layout(trainer: PosttrainTrainer, options: PosttrainOptions) -> None:
    """Stops where ranks could not work together."""
    if trainer.args.n_gpu > 1:
        raise ValueError(
            f"One process sees {trainer.args.n_gpu} GPUs; start one for each: accelerate launch "
            f"--num_processes {trainer.args.n_gpu} -m lm_eval_llada.posttrain ..."
        )
    is_sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if is_sharded and options.data.strategy == "adaptive" and runs_by_document(options):
        raise ValueError(
            "Documents one by one are as many forward passes as a rank has documents, and sharded "
            "ranks would wait for each other; use attn_implementation=flash_attention_2 or "
            "flex_attention, or data.by_document=false, whose mask has length x length elements."
        )


def save_result(trainer: PosttrainTrainer, options: PosttrainOptions) -> None:
    """Writes the trained model, its tokenizer and a record of the run into `options.output`."""
    output = Path(options.output)
    adapter = output / "adapter"
    if options.lora is not None:
        trainer.save_model(str(adapter))
        weights = merge_lora(options, adapter) if trainer.is_world_process_zero() else {}
    else:
        # All ranks take part: each may hold a shard.
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.is_world_process_zero():
        return
    save_weights(options, weights, output)
    tokenizer: Any = trainer.processing_class
    if tokenizer is not None:
        # Otherwise it would warn of every sequence that the new context allows.
        longest = extended_config(options)[0].max_sequence_length
        tokenizer.model_max_length = max(tokenizer.model_max_length, longest)
        tokenizer.save_pretrained(output)
    record = {
        "options": options.to_dict(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "num_ranks": trainer.args.world_size,
        "samples": trainer.place["num_samples"],
        "shortened_tokens": trainer.place["shortened_tokens"],
        "packing": trainer.place["packer"]["statistics"],
        "log": trainer.state.log_history,
    }
    (output / RECORD_NAME).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for line in PackingStatistics(**trainer.place["packer"]["statistics"]).lines():
        print(line)
    print(f"{trainer.place['shortened_tokens']:,} tokens dropped behind shortened samples")
    print(f"wrote {output}")
