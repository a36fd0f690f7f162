"""What the channels promise by means of a guest's own programs, on guests that have others."""

from tests.qemu import test_channel_files, test_channels
from tests.qemu.channels import OTHERS, machine_of_each

vm = machine_of_each(OTHERS)


class TestOtherPrograms:
    test_channel = test_channels.TestRun.test_answers_over_the_channel_that_was_asked_for
    test_words = test_channels.TestRun.test_a_text_is_for_a_shell_and_a_list_is_for_none
    test_surroundings = test_channels.TestRun.test_input_environment_folder_and_user
    test_timeout = test_channels.TestRun.test_a_timeout_kills_it_and_tells_what_it_had_printed
    test_folder = test_channel_files.TestFiles.test_a_folder_there_and_back
    test_units = test_channel_files.TestWaits.test_systemd
