# Loads our exports in Hugging Face transformers. Needs Python with torch and transformers (ESPALIER_INTEROP_PYTHON, or an environment
# that make-venv.sh installs once, about 1 GB): not part of the default test run, `ctest -L interop` asks for it.
add_executable(espalier_interop_tool interop/interop_tool.cpp)
target_link_libraries(espalier_interop_tool
    PRIVATE espalier::export espalier::evaluate espalier::profile espalier::tokenizer espalier::model espalier::recover espalier::options)
add_test(NAME interop_transformers
    COMMAND ${CMAKE_CURRENT_LIST_DIR}/run-interop.sh $<TARGET_FILE:espalier_interop_tool> ${PROJECT_SOURCE_DIR}/resources
        ${PROJECT_SOURCE_DIR}/tests/fixtures/model/checkpoints)
set_tests_properties(interop_transformers PROPERTIES LABELS "interop;slow" SKIP_RETURN_CODE 77 TIMEOUT 3600)
# `tasks` beside lm-evaluation-harness itself (ESPALIER_HARNESS_PYTHON, or an environment that make-venv.sh --harness installs once).
if(TARGET espalier-engine)
    add_test(NAME interop_harness
        COMMAND ${CMAKE_CURRENT_LIST_DIR}/run-harness.sh $<TARGET_FILE:espalier-engine> ${PROJECT_SOURCE_DIR}/resources
            ${PROJECT_SOURCE_DIR}/tests/fixtures/tasks)
    set_tests_properties(interop_harness PROPERTIES LABELS "interop;slow" SKIP_RETURN_CODE 77 TIMEOUT 3600)
endif()

# Gradients and losses of training against PyTorch's autograd and optimiser, and peft's adapters where it is installed.
add_executable(espalier_training_tool interop/training_tool.cpp)
target_link_libraries(espalier_training_tool PRIVATE espalier::recover espalier::checkpoint espalier::model espalier::options)
add_test(NAME interop_training
    COMMAND ${CMAKE_CURRENT_LIST_DIR}/run-interop.sh --script compare_training.py $<TARGET_FILE:espalier_training_tool>
        ${PROJECT_SOURCE_DIR}/tests/fixtures/model/checkpoints)
set_tests_properties(interop_training PROPERTIES LABELS "interop;slow" SKIP_RETURN_CODE 77 TIMEOUT 3600)

# Completions of the command line beside transformers' greedy decoding.
add_test(NAME interop_generate
    COMMAND ${CMAKE_CURRENT_LIST_DIR}/run-interop.sh --script compare_generate.py
        $<TARGET_FILE:espalier-engine> ${PROJECT_SOURCE_DIR}/tests/fixtures/model)
set_tests_properties(interop_generate PROPERTIES LABELS "interop;slow" SKIP_RETURN_CODE 77 TIMEOUT 3600)
