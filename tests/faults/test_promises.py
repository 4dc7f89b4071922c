"""Which test shows which promise: one row per fault that a night may bring.

What breaks files, processes, disks and servers is in this folder. Claims of the method, and what one module promises
of its own values, stay with their modules; this table leads there.
"""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

PROMISES: dict[str, list[str]] = {
    "kill -9 at any time, in the middle of a write, fsync or rename": [
        "faults/test_soak.py::test_a_night_killed_at_its_writes_ends_as_if_it_had_not_been",
        "faults/test_training_is_killed.py::test_a_run_killed_at_any_moment_is_resumed_to_the_same_result_bit_for_bit",
        "faults/test_preparation_is_killed.py::test_a_killed_preparation_goes_on_where_it_was_to_the_same_bytes",
        "faults/test_files_whole_or_absent.py::test_folder_killed_at_any_line_is_the_old_one_or_the_new_one_and_never_missing",
        "faults/test_new_store_is_killed.py::test_a_store_that_was_killed_while_its_tables_were_made_is_made_by_the_next",
        "faults/test_study_is_broken_off.py::test_a_study_that_was_killed_goes_on_and_its_figures_are_those_of_an_unbroken_one_bit_for_bit",
        "method/test_resumed_run_equals_unbroken_run.py::test_a_resumed_run_ends_with_the_bits_of_an_unbroken_one",
    ],
    "bit rot, truncated checkpoint": [
        "artifacts/test_checkpoint.py::test_a_flipped_bit_is_found_and_the_checkpoint_before_is_used",
        "artifacts/test_checkpoint.py::test_a_truncated_file_is_found_and_the_checkpoint_before_is_used",
        "artifacts/test_checkpoint.py::test_a_missing_file_is_named",
        "artifacts/test_checkpoint.py::test_of_a_damaged_checkpoint_no_file_is_opened_by_a_parser",
        "artifacts/test_elastic_checkpoints.py::test_a_file_of_any_process_that_is_torn_is_named",
    ],
    "malicious checkpoint, tower or model": [
        "faults/test_hostile_files.py::test_a_checkpoint_that_holds_code_under_a_right_digest_is_passed_over",
        "faults/test_hostile_files.py::test_a_tower_that_holds_code_under_a_right_digest_is_refused",
        "faults/test_hostile_files.py::test_a_served_model_that_holds_code_under_right_digests_is_refused",
        "faults/test_hostile_files.py::test_a_served_model_cannot_name_a_function_of_its_own",
        "towers/test_imported.py::test_pickled_arrays_are_refused_unread",
    ],
    "truncated or corrupt Parquet": [
        "faults/test_damaged_rows.py::test_an_empty_or_truncated_file_is_refused_before_the_first_batch",
        "faults/test_damaged_rows.py::test_no_flipped_bit_goes_unseen",
        "faults/test_bad_input.py::test_files_that_cannot_be_read_are_named_with_what_lies_there",
        "faults/test_bad_input.py::test_an_encoded_file_that_rotted_is_found_before_training",
        "streaming/test_raw_rows.py::test_damaged_pages_are_found_by_their_checksums",
    ],
    "schema drift": [
        "faults/test_damaged_rows.py::test_a_second_file_of_another_schema_is_refused_before_the_first_batch",
        "faults/test_bad_input.py::test_bad_rows_stop_the_run_before_training_with_what_was_found_and_expected",
    ],
    "null, NaN, infinity": [
        "faults/test_damaged_rows.py::test_a_value_outside_the_contract_stops_the_step_loop_and_says_where",
        "faults/test_bad_input.py::test_bad_rows_stop_the_run_before_training_with_what_was_found_and_expected",
        "datasets/test_declared_values.py::test_missing_values_are_filled_and_counted",
    ],
    "id negative or too large": [
        "faults/test_bad_input.py::test_one_stray_id_is_no_reason_to_stop_but_is_counted_and_told",
        "datasets/test_encode.py::test_null_and_negative_ids_get_the_unknown_row_and_are_counted",
        "datasets/test_encode.py::test_ids_beyond_64_bits_are_invalid_and_never_another_id",
        "sharding/test_inventory.py::test_an_id_outside_its_table_stops_the_run",
    ],
    "empty partition": [
        "faults/test_damaged_rows.py::test_a_split_without_rows_is_refused",
        "faults/test_damaged_rows.py::test_empty_files_between_full_ones_and_empty_lists_are_fine",
        "faults/test_bad_input.py::test_bad_rows_stop_the_run_before_training_with_what_was_found_and_expected",
    ],
    "empty, negative or huge list": [
        "interactions/test_network.py::test_an_empty_list_is_a_zero_vector",
        "streaming/test_policies.py::test_a_list_is_cut_to_its_last_ids_where_clip_is_declared",
        "datasets/test_encode.py::test_lists_lose_their_nulls_and_keep_their_last_ids",
    ],
    "one-label batch, absent segment": [
        "metrics/test_row_metrics.py::test_one_class_leaves_auc_and_entropy_undefined_but_not_the_log_loss",
        "evaluation/test_split_evaluation.py::test_segments_are_measured_apart_and_an_absent_one_has_support_0_and_no_metric",
    ],
    "disk full": [
        "faults/test_training_is_killed.py::test_a_disk_that_fills_up_ends_the_run_with_73_and_leaves_what_stood",
        "faults/test_machine_faults.py::test_training_on_a_full_disk_ends_with_73_and_the_place",
        "faults/test_files_whole_or_absent.py::test_full_disk_ends_with_73_and_the_old_output_intact",
        "artifacts/test_checkpoint.py::test_a_full_disk_is_told_before_anything_is_written",
        "tracking/test_spool.py::test_a_full_disk_stops_with_a_message_and_leaves_whole_lines",
    ],
    "tracking server down at start, on the way, at the end": [
        "faults/test_tracking_server_is_away.py::test_a_server_that_is_away_from_start_to_end_costs_no_time_and_sync_brings_everything",
        "faults/test_tracking_server_is_away.py::test_a_server_killed_in_the_middle_and_started_again_has_every_point_once",
        "faults/test_tracking_server_is_away.py::test_a_server_that_dies_before_the_end_gets_the_rest_and_the_end_by_sync",
    ],
    "NaN loss or gradient": [
        "training/test_loop.py::test_a_batch_without_a_finite_loss_and_gradient_moves_nothing_and_is_counted",
        "training/test_loop.py::test_three_bad_batches_in_a_row_end_the_run_and_name_the_steps",
        "faults/test_study_is_broken_off.py::test_an_arm_that_fails_is_told_by_name_and_the_others_finish",
    ],
    "out of memory": [
        "training/test_loop.py::test_memory_that_runs_out_anywhere_in_a_step_is_told_with_the_batch_size",
        "training/test_loop.py::test_memory_that_runs_out_in_a_pass_is_told_with_the_batch_size",
        "faults/test_machine_faults.py::test_what_the_machine_refused_is_known_in_every_librarys_words",
    ],
    "SIGTERM": [
        "faults/test_training_is_killed.py::test_a_run_asked_to_end_keeps_a_checkpoint_ends_with_143_as_killed_and_is_resumed_to_the_same_result",
        "faults/test_training_is_killed.py::test_a_command_asked_to_end_before_there_is_a_run_ends_at_once_with_143",
        "faults/test_training_is_killed.py::test_a_second_signal_does_not_wait_for_the_step_in_hand",
        "faults/test_jobs_of_several_processes.py::test_a_job_asked_to_end_keeps_a_checkpoint_from_which_it_goes_on_as_an_unbroken_one",
        "faults/test_study_is_broken_off.py::test_a_study_that_is_stopped_stops_its_arms_leaves_no_process_and_lets_no_second_one_in_before",
    ],
    "a process of several is killed": [
        "faults/test_jobs_of_several_processes.py::test_a_killed_process_takes_the_job_down_and_the_restarted_one_ends_as_an_unbroken_one",
        "faults/test_jobs_of_several_processes.py::test_a_killed_process_is_named_as_the_first_that_failed",
        "sharding/test_meeting_point.py::test_a_restarted_job_sees_nothing_of_the_start_before_but_what_was_left_for_it",
    ],
    "two starters": [
        "faults/test_training_is_killed.py::test_of_two_starters_the_second_ends_with_75_and_names_the_first",
        "faults/test_held_locks.py::test_lock_names_its_holder_and_is_free_the_moment_that_one_is_killed",
        "scheduling/test_stage.py::test_of_many_starters_at_once_exactly_one_works",
    ],
    "clocks and zones": [
        "datasets/test_table_times.py::test_every_unit_and_zone_of_a_timestamp_is_the_same_instant",
        "datasets/test_table_times.py::test_nanoseconds_are_cut_off_and_never_reach_the_next_day",
        "datasets/test_partitions.py::test_the_machines_time_zone_does_not_move_a_row_to_another_day",
        "scheduling/test_window.py::test_no_day_is_in_two_windows_and_none_between_them_is_left_out",
    ],
    "read-only output": [
        "faults/test_bad_input.py::test_an_output_that_cannot_be_written_is_found_before_any_work",
        "scheduling/test_stage.py::test_read_only_folder_is_refused_before_any_work_and_in_under_a_second",
    ],
    "unicode column names": [
        "pipelines/test_own_table.py::test_unicode_columns_string_ids_and_lists_are_trained_on_compared_on_and_scored",
        "tracking/test_names.py::test_every_segment_name_becomes_a_key_that_mlflow_takes_and_turns_back",
    ],
    "path traversal": [
        "faults/test_names_stay_inside.py::test_a_name_of_data_or_of_a_study_is_one_plain_word",
        "scheduling/test_champion_file.py::test_champion_file_that_points_outside_its_folder_is_refused",
        "scheduling/test_champion_file.py::test_artifact_outside_the_champion_folder_is_refused",
        "pipelines/test_raw_rows_behind_a_uri.py::test_a_name_that_leads_out_of_the_folder_is_refused",
    ],
    "code through configuration": [
        "faults/test_config_is_data.py::test_an_override_computes_nothing_and_tells_no_secret",
        "faults/test_config_is_data.py::test_a_class_path_in_the_configuration_is_an_unknown_key",
        "faults/test_config_is_data.py::test_tag_that_asks_for_code_runs_none",
        "faults/test_config_is_data.py::test_alias_bomb_is_refused_in_under_a_second_and_in_little_memory",
        "datasets/test_expressions.py::test_whatever_is_not_a_function_of_the_row_is_refused",
    ],
    "zip or Parquet bomb": [
        "datasets/archives/test_retail_transactions.py::test_an_archive_that_declares_too_much_is_refused_before_it_is_unpacked",
        "datasets/archives/test_retail_transactions.py::test_a_bomb_inside_the_workbook_inside_the_zip_is_refused",
        "streaming/test_parts.py::test_rows_in_memory_depend_on_the_parts_and_not_on_the_row_group",
        "features/test_plain_yaml.py::test_file_too_large_to_be_a_declaration_is_refused_unread",
    ],
    "resumed metrics": [
        "faults/test_training_is_killed.py::test_sync_ends_a_killed_run_as_killed_and_loses_no_metric_and_resuming_it_doubles_none",
        "faults/test_tracking_server_is_away.py::test_a_run_resumed_from_an_earlier_step_while_the_server_was_away_has_every_point_once",
        "tracking/test_spool.py::test_a_resumed_run_writes_each_metric_and_step_once",
    ],
    "frozen tower": [
        "method/test_frozen_tower_is_unchanged.py::test_a_frozen_tower_keeps_every_bit_while_the_others_learn",
        "method/test_frozen_tower_is_unchanged.py::test_no_optimizer_state_is_kept_for_a_frozen_tower",
        "tracking/test_names.py::test_every_part_gets_its_gradient_norm_and_a_frozen_tower_gets_zero",
    ],
    "absent segment's parameters": [
        "method/test_absent_segments_are_unchanged.py::test_what_belongs_to_an_absent_segment_keeps_every_bit",
        "method/test_absent_segments_are_unchanged.py::test_two_processes_leave_what_both_lack_and_average_what_one_has",
    ],
    "parallel arms on a fresh store": [
        "tracking/test_store.py::test_eight_runs_at_once_on_a_fresh_store_all_succeed",
        "faults/test_study_is_broken_off.py::test_arms_that_start_at_once_on_a_fresh_store_are_as_many_finished_runs",
    ],
    "elastic order": [
        "streaming/test_loader.py::test_the_number_of_threads_does_not_change_the_order",
        "streaming/test_exactly_once.py::test_in_step_a_life_on_any_ranks_reads_the_rows_in_the_order_of_one_unbroken_process",
    ],
}


@pytest.mark.parametrize("fault", PROMISES)
def test_every_promise_is_shown_by_tests_that_are_there(fault: str):
    missing = []
    for place in PROMISES[fault]:
        file, _, name = place.partition("::")
        path = TESTS / file
        if not path.is_file() or not re.search(rf"^def {name}\(", path.read_text(encoding="utf-8"), re.MULTILINE):
            missing.append(place)
    assert PROMISES[fault]
    assert missing == []
