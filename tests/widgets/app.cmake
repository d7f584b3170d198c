# The window against a scripted engine: no torch, no model, no screen.
find_package(Qt6 6.4 REQUIRED COMPONENTS Test)

add_executable(fake-engine widgets/fake_engine.cpp widgets/fake_measures.cpp widgets/fake_model.cpp widgets/fake_plans.cpp)
target_include_directories(fake-engine PRIVATE ${PROJECT_SOURCE_DIR}/tests)
target_link_libraries(fake-engine PRIVATE espalier::rpc espalier::plan espalier::allocate espalier::session espalier::options)

# espalier_shell_test(<name>): widgets/<name>.cpp with the scaffolding of shell_fixture.h.
function(espalier_shell_test name)
    add_executable(${name} widgets/${name}.cpp widgets/shell_fixture.h)
    set_target_properties(${name} PROPERTIES AUTOMOC ON)
    target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
    target_link_libraries(${name} PRIVATE espalier::options espalier::shell Qt6::Widgets Qt6::Test)
    target_compile_definitions(${name} PRIVATE ESPALIER_FAKE_ENGINE="$<TARGET_FILE:fake-engine>")
    add_dependencies(${name} fake-engine)
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES
        ENVIRONMENT "QT_QPA_PLATFORM=offscreen;LC_ALL=C.UTF-8" LABELS "fast;window" TIMEOUT 120)
endfunction()

espalier_shell_test(test_shell_plan)
espalier_shell_test(test_shell_engine)
espalier_shell_test(test_shell_planning)
espalier_shell_test(test_shell_running)
espalier_shell_test(test_shell_rank_rule)
espalier_shell_test(test_shell_session)
espalier_shell_test(test_shell_window)
espalier_shell_test(test_shell_small)
espalier_shell_test(test_shell_ranks)
espalier_shell_test(test_shell_forms)
target_link_libraries(test_shell_forms PRIVATE QCustomPlotQt6::QCustomPlotQt6)

# What an edit costs the GUI thread. Not part of a build by default.
add_executable(edit_bench EXCLUDE_FROM_ALL widgets/edit_bench.cpp widgets/shell_fixture.h)
set_target_properties(edit_bench PROPERTIES AUTOMOC ON)
target_include_directories(edit_bench PRIVATE ${PROJECT_SOURCE_DIR}/tests)
target_link_libraries(edit_bench PRIVATE espalier::options espalier::shell Qt6::Widgets Qt6::Test)
target_compile_definitions(edit_bench PRIVATE ESPALIER_FAKE_ENGINE="$<TARGET_FILE:fake-engine>")
add_dependencies(edit_bench fake-engine)
espalier_shell_test(test_shell_tasks)
espalier_shell_test(test_shell_try)
espalier_shell_test(test_shell_texts)
# The window and the command line on the demo, with the real engine.
if(TARGET espalier-engine)
    espalier_shell_test(test_shell_digits)
    add_dependencies(test_shell_digits espalier-engine espalier-engine-compute)
    target_compile_definitions(test_shell_digits PRIVATE ESPALIER_ENGINE="$<TARGET_FILE:espalier-engine>"
        ESPALIER_RESOURCES="${PROJECT_SOURCE_DIR}/resources")
    set_tests_properties(test_shell_digits PROPERTIES TIMEOUT 600)
    espalier_shell_test(test_shell_whole_job)
    add_dependencies(test_shell_whole_job espalier-engine espalier-engine-compute)
    target_compile_definitions(test_shell_whole_job PRIVATE ESPALIER_ENGINE="$<TARGET_FILE:espalier-engine>"
        ESPALIER_RESOURCES="${PROJECT_SOURCE_DIR}/resources" ESPALIER_WHOLE_JOB_FIELDS="${CMAKE_CURRENT_SOURCE_DIR}/widgets/whole_job_fields.txt")
    set_tests_properties(test_shell_whole_job PROPERTIES TIMEOUT 600)
endif()
