# Disks that fail and processes that are killed, for every verb that writes. The sanitizers' runtime has to come first among the preloaded
# libraries: not built with them.
if(ESPALIER_SANITIZE)
    return()
endif()
add_library(espalier_fault_injection MODULE faults/fault_injection.cpp)
target_link_libraries(espalier_fault_injection PRIVATE ${CMAKE_DL_LIBS})
target_compile_features(espalier_fault_injection PRIVATE cxx_std_20)
# It defines what the C library declares, which checks and inlining of the C library would turn into something else.
target_compile_options(espalier_fault_injection PRIVATE -U_FORTIFY_SOURCE -O1)
set_target_properties(espalier_fault_injection PROPERTIES POSITION_INDEPENDENT_CODE ON)

add_executable(session_tool faults/session_tool.cpp)
target_link_libraries(session_tool PRIVATE espalier::session GTest::gtest espalier::options)
target_include_directories(session_tool PRIVATE ${PROJECT_SOURCE_DIR}/tests)

function(espalier_fault_test name program)
    target_compile_definitions(${name} PRIVATE ESPALIER_ENGINE="$<TARGET_FILE:${program}>"
        ESPALIER_FAULT_LIBRARY="$<TARGET_FILE:espalier_fault_injection>")
    add_dependencies(${name} ${program} espalier_fault_injection)
endfunction()

set(ESPALIER_DISTURBED_RUN faults/disturbed_run.cpp cli/engine_process.cpp)
espalier_test(test_session_faults SOURCES faults/test_session_faults.cpp ${ESPALIER_DISTURBED_RUN}
    LIBS espalier::base espalier::rpc LABELS faults)
espalier_fault_test(test_session_faults session_tool)

# The same tests with every call instead of a sample: an hour, more or less.
function(espalier_every_fault name)
    add_test(NAME ${name}_every COMMAND ${name})
    set_tests_properties(${name}_every PROPERTIES ENVIRONMENT ESPALIER_FAULT_ALL=1 LABELS "slow;faults" TIMEOUT 14400)
endfunction()
espalier_every_fault(test_session_faults)

# Every verb of the engine: a sample takes minutes, every call hours.
if(ESPALIER_WITH_ENGINE)
    espalier_test(test_verb_faults SOURCES faults/test_verb_faults.cpp ${ESPALIER_DISTURBED_RUN}
        LIBS espalier::base espalier::rpc TIMEOUT 1800)
    set_tests_properties(test_verb_faults PROPERTIES LABELS "slow;faults")
    espalier_fault_test(test_verb_faults espalier-engine)
    espalier_every_fault(test_verb_faults)
endif()
