# The real program, as scripts and the window use it.
espalier_test(test_cli SOURCES cli/test_cli.cpp cli/test_cli_factors.cpp cli/test_cli_forms.cpp cli/test_cli_generate.cpp cli/test_cli_recover.cpp cli/test_cli_tasks.cpp cli/test_cli_tuning.cpp cli/test_resume.cpp cli/test_serve.cpp cli/test_serve_plan.cpp cli/engine_process.cpp LIBS espalier::base espalier::rpc espalier::session LABELS cli TIMEOUT 900)
if(TARGET test_cli)
    add_dependencies(test_cli espalier-engine)
    target_compile_definitions(test_cli PRIVATE ESPALIER_ENGINE="$<TARGET_FILE:espalier-engine>"
        ESPALIER_MANUAL_TEMPLATE="${PROJECT_SOURCE_DIR}/packaging/man/espalier-engine.1.in")
endif()

# Searches of the demo from several starts take minutes.
espalier_test(test_find SOURCES cli/test_find.cpp cli/engine_process.cpp LIBS espalier::base espalier::rpc espalier::session LABELS cli TIMEOUT 1800)
if(TARGET test_find)
    add_dependencies(test_find espalier-engine espalier-engine-compute)
    target_compile_definitions(test_find PRIVATE ESPALIER_ENGINE="$<TARGET_FILE:espalier-engine>")
    set_tests_properties(test_find PROPERTIES LABELS "cli;slow")
endif()

# Two processes under mpirun.
if(ESPALIER_WITH_MPI)
    find_package(MPI REQUIRED COMPONENTS C)
    espalier_test(test_mpi SOURCES cli/test_mpi.cpp cli/engine_process.cpp LIBS espalier::base espalier::rpc espalier::session LABELS "cli;mpi" TIMEOUT 600)
    add_dependencies(test_mpi espalier-engine)
    target_compile_definitions(test_mpi PRIVATE ESPALIER_ENGINE="$<TARGET_FILE:espalier-engine>" ESPALIER_MPIRUN="${MPIEXEC_EXECUTABLE}")
endif()
espalier_test_without_avx512(test_cli "Cli.computesInBf16")
